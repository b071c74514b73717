"""The coder of weights beside NNCodec, and on sources whose bound is known.

    python benchmarks/codec.py --weights FILE.safetensors... --json codec.json [--samples 1000000] [--peer PYTHON] [--cache FOLDER]

Every tensor of two axes or more of each file is coded by NNCodec 2.1 (dependent quantization, its own defaults for whole networks) at
several quantization parameters, and by ours with a step and a worth of bits that give at least NNCodec's signal-to-noise ratio in the
fewest bytes, for the smallest file and for speed of reading (`fast`). `bytes` are those of the whole bitstream or file; `bound_bits` is
the bound of independent Gaussian tensors of these variances at this error (a source that is not Gaussian may need less). Then come
samples of a Gaussian and a Laplacian source at about 1, 2, 3 and 4 bits, with the true bound. Seconds are of one coding and of the
quickest of five decodings; the search for settings is not counted.

NNCodec runs in an environment of its own (`numpy<2`, a C++ compiler), made in the cache folder once: 4 GB, ten minutes. `--peer` names
the interpreter of one that exists; `--peer none` leaves NNCodec out and takes the published rates' signal-to-noise ratios instead.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from math import log10
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

import rate_distortion
from laconic.pack import reader
from laconic.pack.lanes import lanes_for
from laconic.pack.loops import loops
from laconic.pack.rate import code_tensor, decoded
from laconic.pack.writer import Coded, file_of

Tensors = dict[str, NDArray[Any]]
PEER = "NNCodec 2.1"
PARAMETERS = (-11, -13, -15, -17)  # its steps are 2**(parameter / 4)
PUBLISHED = (5.49, 7.63, 9.87, 12.43)  # decibels on ResNet-20
WORTHS = (0.02, 0.5)  # squared steps that a bit is worth: where the search begins and ends
WORTH = 0.3  # on sources
REPEATS = 5  # decodings, the quickest of which is told


@dataclass(frozen=True)
class Ours:
    """Which of our coders."""

    states: int  # of the trellis
    lanes: int  # 0: for the smallest file

    def __str__(self) -> str:
        return f"laconic{' fast' if self.lanes else ''}, {self.states} states"


@dataclass(frozen=True)
class Row:
    """What one coder made of one file or source."""

    file: str
    coder: str
    bytes: int
    weights: int
    bits_per_weight: float
    sqnr_db: float
    bound_bits: float
    encode_seconds: float
    decode_seconds: float


def main() -> None:
    """Code files and sources, print a table and write its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="*", type=Path, default=[])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=1_000_000, help="of each source; 0: none")
    parser.add_argument("--states", nargs="*", type=int, default=[8, 64])
    parser.add_argument("--peer", help="interpreter of an environment with nncodec, or none")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "laconic")
    arguments = parser.parse_args()
    peer = None if arguments.peer == "none" else Path(arguments.peer) if arguments.peer else environment(arguments.cache)
    rows = list[Row]()
    for each in (*files(arguments.weights, arguments.states, peer), *sources(arguments.samples, arguments.states)):
        for row in each:
            print(line(row), flush=True)
            rows.append(row)
            arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def line(row: Row) -> str:
    """Return a row of the table."""
    speed = row.weights / 1e6 / row.decode_seconds if row.decode_seconds else float("nan")
    size = f"{row.bytes:9,} bytes {row.bits_per_weight:7.4f} bits {row.sqnr_db:6.2f} dB"
    bound = f"bound {row.bound_bits:6.4f} ({row.bits_per_weight - row.bound_bits:+.4f})"
    seconds = f"encoded in {row.encode_seconds:6.2f} s, decoded in {row.decode_seconds:.3f} s ({speed:.1f} M/s)"
    return f"{row.file:18} {row.coder:24} {size}  {bound}  {seconds}"


def environment(cache: Path) -> Path:
    """Return the interpreter of an environment with NNCodec, made if there is none."""
    folder = cache / "nncodec-2.1"
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "numpy<2", "nncodec>=2.1,<2.2"], check=True)
        (folder / "whole").touch()
    return python


def files(paths: list[Path], states: list[int], peer: Path | None) -> Iterator[Iterator[Row]]:
    """Yield the rows of each file: NNCodec's, and ours at each of its signal-to-noise ratios."""
    for path in paths:
        tensors = {name: array for name, array in load_file(path).items() if array.ndim > 1 and array.dtype.kind == "f"}
        yield file_rows(path.stem, tensors, states, peer)


def file_rows(name: str, tensors: Tensors, states: list[int], peer: Path | None) -> Iterator[Row]:
    """Yield the rows of one file."""
    theirs = list(peer_rows(name, tensors, peer)) if peer else []
    for number, decibels in enumerate([row.sqnr_db for row in theirs] or PUBLISHED):
        yield from theirs[number : number + 1]
        for each, fast in product(states, (False, True)):
            coder = Ours(each, lanes_for(sum(array.size for array in tensors.values())) if fast else 0)
            yield our_row(name, tensors, *settings(tensors, decibels, coder), coder)


def peer_rows(name: str, tensors: Tensors, python: Path) -> Iterator[Row]:
    """Yield what NNCodec makes of tensors."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "tensors.npz", **tensors)
        script = Path(__file__).with_name("codec_peer.py")
        run = subprocess.run(
            [python, script, Path(folder) / "tensors.npz", folder, *map(str, PARAMETERS)],
            check=True,
            stdout=subprocess.PIPE,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )
        for said in map(json.loads, run.stdout.splitlines()):
            found = dict(np.load(Path(folder) / f"{said['qp']}.npz"))
            yield row_of(name, PEER, said["bytes"], tensors, found, said["encode_seconds"], said["decode_seconds"])


def our_row(name: str, tensors: Tensors, step: int, worth: float, coder: Ours) -> Row:
    """Return what ours makes of tensors with these settings."""
    began = time.perf_counter()
    data = file_of(coded(tensors, step, worth, coder), {})
    encode, decode = time.perf_counter() - began, float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        found = reader.contents(data, loops=loops())[1]
        decode = min(decode, time.perf_counter() - began)
    return row_of(name, str(coder), len(data), tensors, found, encode, decode)


def coded(tensors: Tensors, step: int, worth: float, coder: Ours) -> dict[str, Coded]:
    """Return tensors as our coder quantizes them."""
    return {name: code_tensor(array, step, worth, coder.states, lanes=coder.lanes)[0] for name, array in tensors.items()}


def row_of(name: str, coder: str, size: int, tensors: Tensors, found: Tensors, encode: float, decode: float) -> Row:
    """Return the row of what was decoded."""
    counts = np.array([array.size for array in tensors.values()])
    powers = np.array([np.square(array.astype(np.float64)).sum() for array in tensors.values()])
    error = sum(float(np.square(array.astype(np.float64) - found[key].reshape(array.shape)).sum()) for key, array in tensors.items())
    total = int(counts.sum())
    bound = rate_distortion.gaussians(powers / counts, counts, error / total)
    return Row(name, coder, size, total, 8 * size / total, 10 * log10(powers.sum() / error), bound, encode, decode)


def settings(tensors: Tensors, decibels: float, coder: Ours) -> tuple[int, float]:
    """Return the step and the worth of a bit of fewest bytes that have such a signal-to-noise ratio."""
    power = sum(float(np.square(array.astype(np.float64)).sum()) for array in tensors.values())
    weights = sum(array.size for array in tensors.values())
    allowed = power / 10 ** (decibels / 10)
    middle = round(8 * np.log2(12 * allowed / weights)) - (
        16 if coder.states else 0
    )  # the step of uniform errors; a trellis has twice as many
    tried = dict[int, tuple[int, float]]()

    def fits(step: int, worth: float) -> bool:
        return error_of(tensors, coded(tensors, step, worth, coder)) <= allowed

    def size(step: int) -> int:
        if step not in tried:
            worth = most_worth(partial(fits, step), *WORTHS, 5)
            tried[step] = (len(file_of(coded(tensors, step, worth, coder), {})) if worth else sys.maxsize, worth)
        return tried[step][0]

    best = min(range(middle - 8, middle + 5, 4), key=size)
    best = min(range(best - 2, best + 3, 2), key=size)
    worth = tried[best][1]
    return best, most_worth(partial(fits, best), worth, 1.15 * worth, 4)


def most_worth(allowed: Callable[[float], bool], low: float, high: float, halvings: int) -> float:
    """Return the most that a bit may be worth in an interval, 0 if even the least is too much."""
    if not allowed(low):
        return 0.0
    for _ in range(halvings):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


def error_of(tensors: Tensors, found: dict[str, Coded]) -> float:
    """Return the sum of squared errors."""
    return sum(float(np.square(array.astype(np.float64) - decoded(found[name])).sum()) for name, array in tensors.items())


def sources(samples: int, states: list[int]) -> Iterator[Iterator[Row]]:
    """Yield the rows of each source at each rate."""
    draw = np.random.default_rng(0)
    if samples:
        yield source_rows("gaussian", draw.normal(size=samples), rate_distortion.gaussian, states)
        yield source_rows("laplacian", draw.laplace(size=samples) / 2**0.5, rate_distortion.laplacian, states)


def source_rows(name: str, values: NDArray[np.float64], bound: Callable[[float], float], states: list[int]) -> Iterator[Row]:
    """Yield the rows of a source; the step is the smallest that takes no more bits than wanted on the first 100,000 samples."""
    whole, first = values.astype(np.float32), values[:100_000].astype(np.float32)
    for bits in (1, 2, 3, 4):
        for each, fast in product(states, (False, True)):
            coder = Ours(each, lanes_for(len(whole)) if fast else 0)
            low, high = -16 * bits - 16, -16 * bits + 48
            while high - low > 1:
                middle = (low + high) // 2
                size = len(file_of(coded({name: first}, middle, WORTH, coder), {}))
                low, high = (low, middle) if 8 * size <= bits * len(first) else (middle, high)
            row = our_row(name, {name: whole}, high, WORTH, coder)
            error = float(np.mean(np.square(values))) / 10 ** (row.sqnr_db / 10)
            yield replace(row, bound_bits=bound(error))


if __name__ == "__main__":
    main()
