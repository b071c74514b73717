"""Programs timed as files in a runtime, against each other and layer by layer: what a step asks for while it chooses."""

import tempfile
from pathlib import Path

from torch import Tensor

from laconic.context import Latency, LayerSeconds
from laconic.fresh import File, layer_seconds, time_files
from laconic.measure import ratio_interval
from laconic.program import Program
from laconic.runtimes import runtime

_SECONDS = 2.0  # of calls of both together


def race(example: tuple[Tensor, ...], runtime_name: str = "onnxruntime", threads: int = 1) -> Latency:
    """Return what gives the time that a second program takes for one example, as a share of the first's.

    Both are exported and called in turns in a fresh process; the median of the paired ratios counts.

    Args:
        example: inputs with a batch of 2 or more, to export with; the first example is timed.
        runtime_name: what executes them.
        threads: of the runtime.
    """
    module = runtime(runtime_name)

    def share(before: Program, after: Program) -> float:
        with tempfile.TemporaryDirectory() as folder:
            files = [File(Path(folder) / f"{number}{module.SUFFIX}", runtime_name) for number in range(2)]
            for program, file in zip((before, after), files, strict=True):
                module.export(program, example, file.path)
            times = time_files(files, example[0].cpu().numpy(), threads, seconds=_SECONDS)
        return ratio_interval(times[:, 1], times[:, 0]).median

    return share


def profile(example: tuple[Tensor, ...], runtime_name: str = "onnxruntime", threads: int = 1) -> LayerSeconds:
    """Return what gives the seconds that each layer of a program takes for one example, by the runtime's own profile in a fresh process.

    Args:
        example: inputs with a batch of 2 or more, to export with; the first example is timed.
        runtime_name: what executes it.
        threads: of the runtime.
    """
    module = runtime(runtime_name)

    def seconds(program: Program) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            file = File(Path(folder) / f"network{module.SUFFIX}", runtime_name)
            module.export(program, example, file.path)
            return layer_seconds(file, example[0].cpu().numpy(), threads)

    return seconds
