"""Verify: measure a delivered folder anew, in fresh processes, and compare with what its receipt claims."""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from laconic import data, fresh
from laconic.data import Splits
from laconic.deliver import export
from laconic.errors import LaconicError
from laconic.files import sha256
from laconic.fresh import File
from laconic.job import Job, Origin, located, prepare
from laconic.measure import RARE, Accuracy, ratio_interval
from laconic.pack.network import NAMED, read_program, same_weights
from laconic.receipt import Measurement, Receipt, missed, read_receipt
from laconic.runtimes import runtime
from laconic.store import Store

_FASTER = 0.25  # relative: another load on the machine, another processor of the same family
_MEMORY = 0.25  # relative: allocators and library versions
_COUNTS = 0.01  # relative: the file's constants are counted with its weights
_ACCURACY = 0.002  # share: rounding differs between processors
_RARE = {"perplexity": (0.005, True), "lowest_cosine": (0.02, False), "pixel_accuracy": (0.002, False), "strict_precision": (0.005, False)}
"""Tolerance of what only some networks are scored by, and whether it is a share of the value."""
_PER_CLASS = 0.05  # share: a class may have few examples
_MACHINE = 2.0  # relative: absolute times are the machine's too; the ratios are what is claimed


@dataclass(frozen=True)
class Check:
    """One claim and what was measured now."""

    name: str
    claimed: Any
    measured: Any
    tolerance: float  # relative for sizes, times and memory; absolute for accuracies (a share); 0: exactly equal
    ok: bool


@dataclass(frozen=True)
class Verdict:
    """All checks; ok when each is."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)


def verify(folder: Path, data_root: Path | None = None, threads: int | None = None) -> Verdict:
    """Measure the artifact in `folder` again and compare it with its receipt.

    Args:
        folder: where `receipt.json` and the artifact lie.
        data_root: where the data sets are; None: as on the receipt, then LACONIC_DATA.
        threads: of the runtime; None: as on the receipt.

    Raises:
        LaconicError: no receipt, no data, or a file that cannot be opened.
    """
    receipt = read_receipt(folder)
    threads = threads or receipt.threads
    artifact = folder / receipt.after.file
    if not artifact.is_file():
        raise LaconicError(f"the artifact {artifact} is missing; the folder is not whole")
    identity = _equal("artifact sha256", receipt.hashes.artifact, sha256(artifact))
    if not identity.ok:  # another file than the one on the receipt: nothing measured on it would say anything about the claim
        return Verdict((identity,))
    with tempfile.TemporaryDirectory() as scratch:
        origin = _origin(receipt, data_root)
        dataset = data.load(origin.data, origin.data_root)
        prepared = cache(lambda: prepare(origin, threads))
        baseline = _baseline(folder, receipt, prepared, Path(scratch))
        checks = [identity, _equal("data sha256", receipt.hashes.data, data.fingerprint(dataset))]
        splits = prepared().splits if origin.against == "network" else data.split(dataset, origin.seed)
        checks += _named(folder, receipt.after)
        checks += _measured(receipt, File(artifact, receipt.after.runtime), baseline, splits, dataset.classes, threads)
    return Verdict(tuple(checks))


def _measured(receipt: Receipt, artifact: File, baseline: File, splits: Splits, names: Sequence[str], threads: int) -> list[Check]:
    scores = [fresh.score_file(file, splits.test, threads) for file in (baseline, artifact)]
    drop = 100 * (scores[0].top1 - scores[1].top1)
    example = splits.calibration.arrays(slice(0, receipt.after.throughput_batch))
    single, batched = (
        fresh.time_files([baseline, artifact], example, threads, batch, 4.0) for batch in (1, receipt.after.throughput_batch)
    )
    faster, sizes = ratio_interval(single[:, 0], single[:, 1]).median, [file.path.stat().st_size for file in (baseline, artifact)]
    unmet = missed(receipt.budget, drop, sizes[0] / sizes[1], faster, sizes[1], 1e3 * float(np.median(single[:, 1])))
    checks = [
        _near("drop_points", receipt.drop_points, drop, 100 * 2 * _ACCURACY, relative=False),
        _near("ratios.smaller", receipt.ratios.smaller, sizes[0] / sizes[1], _COUNTS),
        _near("ratios.faster", receipt.ratios.faster.median, faster, _FASTER),
        _near("ratios.throughput", receipt.ratios.throughput, float(np.median(batched[:, 0] / batched[:, 1])), _FASTER),
        _equal("budget met", receipt.met, not unmet),
    ]
    for side, claimed in enumerate((receipt.before, receipt.after)):
        file, when = (baseline, artifact)[side], ("before", "after")[side]
        times = (float(np.median(single[:, side])), float(np.median(batched[:, side])))
        checks += _side(when, claimed, file, scores[side], times, names)
        memory = fresh.peak_memory(file, example, threads)
        checks.append(_near(f"{when}.peak_memory_bytes", claimed.peak_memory_bytes, memory, _MEMORY))
        checks += _decoding(when, claimed, file)
    return checks


def _side(when: str, claimed: Measurement, file: File, scored: Accuracy, times: tuple[float, float], names: Sequence[str]) -> list[Check]:
    """Compare what was claimed of one file; absolute times only within a factor, since they are of the machine too."""
    counts = runtime(file.runtime).count(file.path)
    per_class = {(names[number] if number < len(names) else str(number)): share for number, share in scored.per_class.items()}
    worst = max((abs(share - claimed.accuracy_per_class.get(name, 2.0)) for name, share in per_class.items()), default=0.0)
    rate = claimed.throughput_batch / times[1]
    return [
        *(check for name in RARE for check in _rare(f"{when}.{name}", getattr(claimed, name), getattr(scored, name), *_RARE[name])),
        _near(f"{when}.file_bytes", claimed.file_bytes, file.path.stat().st_size, _COUNTS if when == "before" else 0.0),
        _near(f"{when}.accuracy", claimed.accuracy, scored.top1, _ACCURACY, relative=False),
        Check(
            f"{when}.accuracy_per_class",
            0.0,
            worst,
            _PER_CLASS,
            worst <= _PER_CLASS and per_class.keys() == claimed.accuracy_per_class.keys(),
        ),
        _equal(f"{when}.examples", claimed.examples, scored.examples),
        _near(f"{when}.parameters", claimed.parameters, counts.parameters, _COUNTS),
        _near(f"{when}.nonzero_parameters", claimed.nonzero_parameters, counts.nonzero_parameters, _COUNTS),
        _near(f"{when}.macs", claimed.macs, counts.macs, _COUNTS),
        _near(f"{when}.latency_seconds", claimed.latency_seconds.median, times[0], _MACHINE),
        _near(f"{when}.throughput_per_second", claimed.throughput_per_second, rate, _MACHINE),
    ]


def _decoding(when: str, claimed: Measurement, file: File) -> list[Check]:
    if claimed.decode_seconds is None or claimed.decode_memory_bytes is None:
        return []
    seconds, memory = fresh.decoding(file)
    return [
        _near(f"{when}.decode_seconds", claimed.decode_seconds, seconds, _MACHINE),
        _near(f"{when}.decode_memory_bytes", claimed.decode_memory_bytes, memory, _MEMORY),
    ]


def _named(folder: Path, claimed: Measurement) -> list[Check]:
    """Compare the file that names its architecture, where there is one, with the artifact, tensor by tensor."""
    if claimed.named_bytes is None:
        return []
    path = folder / NAMED
    if not path.is_file():
        raise LaconicError(f"{path} is missing; the folder is not whole")
    same = same_weights(read_program(path), read_program(folder / claimed.file))
    return [_equal("after.named_bytes", claimed.named_bytes, path.stat().st_size), _equal(f"{NAMED} is the same network", True, same)]


def _rare(name: str, claimed: float | None, measured: float | None, tolerance: float, relative: bool) -> list[Check]:
    """Compare what only some networks are scored by."""
    if claimed is None or measured is None:
        return [] if claimed is measured else [_equal(name, claimed, measured)]
    return [_near(name, claimed, measured, tolerance, relative)]


def _origin(receipt: Receipt, data_root: Path | None) -> Origin:
    root = data_root or (Path(os.environ["LACONIC_DATA"]) if os.environ.get("LACONIC_DATA") else None)
    weights, against = located(receipt.model.get("weights"), root), receipt.data.get("against", "labels")
    return Origin(receipt.model["name"], receipt.data["name"], weights, root, receipt.seed, against)


def _baseline(folder: Path, receipt: Receipt, prepared: Callable[[], Job], scratch: Path) -> File:
    """Return the float network's file: from the folder, or exported anew from the model and weights on the receipt."""
    kept = folder / receipt.before.file
    if kept.is_file():
        if sha256(kept) != receipt.hashes.baseline:
            raise LaconicError(
                f"{kept} is not the baseline on the receipt (another checksum); remove it and it is exported anew from the model"
            )
        return File(kept, receipt.before.runtime)
    job = prepared()
    if job.model_hash != receipt.hashes.model:
        raise LaconicError(
            f"the model {job.origin.model} with weights {job.origin.weights} is not the one on the receipt (another checksum)"
        )
    return export(job.program, "baseline", receipt.before.runtime, job, Store(scratch)).file


def _equal(name: str, claimed: Any, measured: Any) -> Check:
    return Check(name, claimed, measured, 0.0, bool(claimed == measured))


def _near(name: str, claimed: float, measured: float, tolerance: float, relative: bool = True) -> Check:
    limit = tolerance * abs(claimed) if relative else tolerance
    return Check(name, claimed, measured, tolerance, abs(measured - claimed) <= limit + 1e-12)
