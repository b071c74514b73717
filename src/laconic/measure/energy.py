"""Energy: joules per call, where the machine has a meter that this user may read.

A meter counts everything that its device does meanwhile, idle power included; so measure on a machine that does nothing else.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

NO_METER = "no meter"
"""What tables and receipts print where no meter is."""

POWERCAP = Path("/sys/class/powercap")


class Meter(Protocol):
    """A counter of energy that only grows."""

    @property
    def name(self) -> str:
        """What it meters, for the receipt."""

    def joules(self) -> float:
        """Return the energy counted so far; only differences mean something."""


def meter(device: Literal["cpu", "gpu"] = "cpu", powercap: Path = POWERCAP) -> Meter | None:
    """Return a meter of `device`, or None where there is none or it may not be read.

    Args:
        device: "cpu" is Intel's and AMD's RAPL (Linux), "gpu" the first NVIDIA GPU (NVML).
        powercap: the folder of the kernel's power zones.
    """
    return _rapl(powercap) if device == "cpu" else _nvml()


def joules(call: Callable[[], object], meter: Meter, seconds: float = 2.0) -> float:
    """Return the joules of one `call`: what `meter` counts while it is called for `seconds`, at least once, over the number of calls."""
    call()
    calls, before, end = 0, meter.joules(), time.perf_counter() + seconds
    while not calls or time.perf_counter() < end:
        call()
        calls += 1
    return (meter.joules() - before) / calls


@dataclass
class _Zone:
    """A RAPL zone: a folder whose counter of microjoules starts again from 0 after `energy_range`."""

    folder: Path
    microjoules: int = 0  # since the zone was made

    def __post_init__(self) -> None:
        self.energy_range = self._number("max_energy_range_uj") + 1
        self._last = self._number("energy_uj")

    def read(self) -> int:
        now = self._number("energy_uj")
        self.microjoules += (now - self._last) % self.energy_range
        self._last = now
        return self.microjoules

    def _number(self, file: str) -> int:
        return int((self.folder / file).read_text())


@dataclass
class _Rapl:
    """All processor packages and their memory. Read it at least once per turn of the counters, which is many minutes."""

    zones: list[_Zone]
    name: str = "RAPL"

    def joules(self) -> float:
        return sum(zone.read() for zone in self.zones) / 1e6


def _rapl(powercap: Path) -> _Rapl | None:
    """Open the zones named package-N and dram; the others are parts of a package (core, uncore) or hold it (psys)."""
    try:
        names = {file.parent: file.read_text().strip() for file in sorted(powercap.glob("intel-rapl:*/name"))}
        zones = [_Zone(folder) for folder, name in names.items() if name.startswith("package") or name == "dram"]
    except (OSError, ValueError):  # most systems let only root read the counters
        return None
    return _Rapl(zones) if zones else None


@dataclass
class _Nvml:
    """One NVIDIA GPU, by its own counter of millijoules."""

    nvml: Any
    handle: Any
    name: str = "NVML"

    def joules(self) -> float:
        return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3


def _nvml() -> _Nvml | None:
    with suppress(ImportError):
        import pynvml

        with suppress(pynvml.NVMLError):  # no driver, no GPU, or one older than Volta
            pynvml.nvmlInit()
            return _Nvml(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0))
    return None
