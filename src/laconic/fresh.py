"""Measuring exported files in a fresh process: what the user's own process will do with the file, not what ours happens to hold.

The parent writes a folder (the request as JSON, its arrays as `.npy`), starts `python -m laconic.fresh FOLDER` and reads the answer
from there. The child imports only what the task needs; it ends when its parent does, for it watches a pipe that the parent holds.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from laconic.errors import LaconicError
from laconic.measure.accuracy import Accuracy, Predict, score_all, summary
from laconic.measure.energy import joules, meter
from laconic.measure.latency import interleaved
from laconic.measure.memory import peak_bytes
from laconic.runtimes import runtime

if TYPE_CHECKING:  # it imports torch, which would be the larger part of a child's memory
    from laconic.data.dataset import Split

_Answer: TypeAlias = dict[str, NDArray[Any]]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS")
_FIXED = {"PYTHONHASHSEED": "0", "ORT_DISABLE_TELEMETRY": "1"}  # ONNX Runtime's uploader would run beside what is measured


@dataclass(frozen=True)
class File:
    """An exported network and the runtime that executes it: a module of `laconic.runtimes` with `load(path, threads)`."""

    path: Path
    runtime: str = "onnxruntime"


def score_file(file: File, split: "Split", threads: int, batch: int = 64) -> Accuracy:
    """Score `file` on every example of `split`, in a fresh process.

    Raises:
        LaconicError: the file does not load or run, or its output cannot be scored.
    """
    arrays = {"inputs": split.inputs, "labels": split.labels}
    answer = _ask("accuracy", [file], arrays, threads, mean=[*map(float, split.mean)], std=[*map(float, split.std)], batch=batch)
    return summary(answer, split.labels)


def time_files(
    files: Sequence[File], example: NDArray[Any], threads: int, batch: int = 1, seconds: float = 2.0, least: int = 30
) -> NDArray[np.float64]:
    """Time `files` in turns, all in one fresh process.

    Args:
        files: the candidates.
        example: network inputs `(n, ...)`; a batch repeats them as often as it needs.
        threads: of each runtime.
        batch: examples per call.
        seconds: how long all rounds take, at least `least` and at most 2000 of them; see `laconic.measure.interleaved`.
        least: rounds; an interval needs 6, a tight one 30 or more.

    Returns:
        Seconds per batch, of shape (rounds, files).

    Raises:
        LaconicError: a file does not load or run.
    """
    inputs = example[np.arange(batch) % len(example)]
    return _ask("time", files, {"inputs": inputs}, threads, seconds=seconds, least=least)["seconds"]


def peak_memory(file: File, example: NDArray[Any], threads: int) -> int:
    """Return the largest resident set, in bytes, of a fresh process that loads `file` and runs it three times at batch 1.

    Included are the Python interpreter, NumPy, the runtime's library, the network, its working memory and what loading it took;
    torch is not, unless the runtime itself imports it.

    Raises:
        LaconicError: the file does not load or run.
    """
    return int(_ask("memory", [file], {"inputs": example[:1]}, threads)["bytes"])


def decoding(file: File) -> tuple[float, int]:
    """Return the seconds that decoding a `.lac` file takes, and the largest resident set, in bytes, of a process that does nothing else.

    The seconds are of the second time: before the first, inner loops may have to be compiled. Neither torch nor the network is loaded.

    Raises:
        LaconicError: the file cannot be read.
    """
    answer = _ask("decode", [file], {}, 1)
    return float(answer["seconds"]), int(answer["bytes"])


def joules_per_example(file: File, example: NDArray[Any], threads: int, seconds: float = 2.0) -> float | None:
    """Return the joules of one example at batch 1, measured in a fresh process for `seconds`; None where there is no meter.

    Raises:
        LaconicError: the file does not load or run.
    """
    if meter() is None:
        return None
    return float(_ask("energy", [file], {"inputs": example[:1]}, threads, seconds=seconds)["joules"])


def layer_seconds(file: File, example: NDArray[Any], threads: int, calls: int = 200) -> dict[str, float]:
    """Return where the time of one call at batch 1 goes: seconds by layer as the runtime's own profile tells, in a fresh process.

    What follows a layer up to the next counts to it; "" is what belongs to none.

    Raises:
        LaconicError: the file does not load or run.
    """
    answer = _ask("layers", [file], {"inputs": example[:1]}, threads, calls=calls)
    return dict(zip(map(str, answer["names"]), map(float, answer["seconds"]), strict=True))


def _ask(task: str, files: Sequence[File], arrays: Mapping[str, NDArray[Any]], threads: int, **settings: Any) -> _Answer:
    """Have a fresh process do `task` and return the arrays that it answers."""
    request = {"task": task, "files": [_checked(file) for file in files], "threads": threads, "settings": settings}
    with tempfile.TemporaryDirectory(prefix="laconic-") as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        for key, array in arrays.items():
            np.save(folder / f"{key}.npy", array, allow_pickle=False)
        _run(folder, threads, f"cannot measure {task} of {', '.join(str(file.path) for file in files)} in a fresh process")
        with np.load(folder / "answer.npz", allow_pickle=False) as answer:
            return dict(answer)


def _checked(file: File) -> tuple[str, str]:
    """Return path and runtime as the child needs them, if both are there."""
    runtime(file.runtime)
    if not file.path.exists():
        raise LaconicError(f"there is no file {file.path} to measure; export it first")
    return str(file.path.resolve()), file.runtime


def _run(folder: Path, threads: int, trouble: str) -> None:
    """Run the child on `folder` to its end; a failure is a `LaconicError` that begins with `trouble`."""
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads)) | _FIXED
    command = [sys.executable, "-P", "-m", "laconic.fresh", str(folder)]
    errors = folder / "errors.txt"
    with errors.open("wb") as stderr:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr, env=environment)
        try:
            code = child.wait()
        finally:
            child.kill()
            child.wait()
            assert child.stdin
            child.stdin.close()
    if code:
        raise LaconicError(f"{trouble}: {_reason(code, errors.read_text(errors='replace'))}")


def _reason(code: int, errors: str) -> str:
    """Say why a child ended badly: the last line that it wrote, or the signal that killed it."""
    if code < 0:
        return f"it was killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    lines = [line for line in errors.splitlines() if line.strip()]
    return lines[-1].removeprefix("laconic.errors.LaconicError: ") if lines else f"it ended with code {code}"


def _main(folder: Path) -> None:
    """Do the task that lies in `folder`, but no longer than the parent lives."""
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    _work(folder)


def _work(folder: Path) -> None:
    """Do the task that lies in `folder` and leave its answer there."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    if request["task"] == "decode":
        answer: dict[str, Any] = _decode(Path(request["files"][0][0]))
    else:
        networks = [runtime(name).load(Path(path), request["threads"]) for path, name in request["files"]]
        answer = _TASKS[request["task"]](networks, folder, **request["settings"])
    np.savez(folder / "answer.npz", **answer)


def _end_with_parent(folder: Path) -> None:
    """Wait for the end of the pipe whose other end the parent holds; then nobody else removes the folder."""
    os.read(sys.stdin.fileno(), 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _inputs(folder: Path) -> NDArray[Any]:
    return np.ascontiguousarray(np.load(folder / "inputs.npy", allow_pickle=False))


def _score(networks: list[Predict], folder: Path, mean: list[float], std: list[float], batch: int) -> _Answer:
    from laconic.data.dataset import Split

    inputs, labels = (np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("inputs", "labels"))
    return score_all(networks[0], Split(inputs, labels, tuple(mean), tuple(std)), batch)


def _time(networks: list[Predict], folder: Path, seconds: float, least: int) -> _Answer:
    inputs = _inputs(folder)
    return {"seconds": interleaved([partial(network, inputs) for network in networks], seconds, least)}


def _memory(networks: list[Predict], folder: Path) -> _Answer:
    inputs = _inputs(folder)
    for _ in range(3):  # a runtime's arena reaches its size with the second run
        networks[0](inputs)
    return {"bytes": np.array(peak_bytes())}


def _decode(path: Path) -> _Answer:
    from laconic.pack import reader
    from laconic.pack.loops import loops

    read: Callable[..., object] = reader.contents
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        read(path, loops=loops())
        seconds = time.perf_counter() - start
    return {"seconds": np.array(seconds), "bytes": np.array(peak_bytes())}


def _energy(networks: list[Predict], folder: Path, seconds: float) -> _Answer:
    found = meter()
    assert found  # the parent has seen it
    return {"joules": np.array(joules(partial(networks[0], _inputs(folder)), found, seconds))}


def _layers(networks: list[Any], folder: Path, calls: int) -> _Answer:
    spent = networks[0].layer_seconds(_inputs(folder), calls=calls)
    return {"names": np.array(list(spent)), "seconds": np.array(list(spent.values()))}


_TASKS: dict[str, Callable[..., _Answer]] = {
    "accuracy": _score,
    "time": _time,
    "memory": _memory,
    "energy": _energy,
    "layers": _layers,
}


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
