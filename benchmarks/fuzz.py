"""Hostile `.lac` files: each must be read as arrays of the shapes that it declares, within the limit, or be refused as corrupt.

    python benchmarks/fuzz.py --files 100000 [--seed 0] [--bounds]

Small files of every form are mutated: bits flipped, bytes changed, cut off, inserted, two files spliced; as they are (which the checksum
finds), with the checksum made right again, and in the text of the header before it is coded. Anything but arrays or `CorruptArtifact`
ends the run with the file in hexadecimal: another exception, a warning, more than 10 seconds, more memory than the limit and what the
model takes. One file in 100 is also read by the plain loops, which must agree with the compiled ones; for one in 100 memory is traced;
one in 20 may take the reader's usual 2 GiB. `--bounds` compiles the loops with checked indices: one outside its array is a fault.
"""

import argparse
import faulthandler
import os
import random
import resource
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from laconic.pack import reader
from laconic.pack.loops import loops
from laconic.pack.lossless import exactly
from laconic.pack.rate import code_tensor
from laconic.pack.writer import Coded, header_of, in_lanes, written_tensors

SMALL = 1 << 22  # bytes that most files may take
MODEL = 1 << 26  # bytes that the model, the header's objects and Python itself take, at most
SECONDS = 10.0
BEFORE_BODY = 8  # magic, version and checksum
EXTREMES = ("0", "-1", "1", "7", "8", "63", "64", "255", "65536", "65537", "8192", "8193", "1099511627775", "1099511627776", "9" * 30)
LOOPS = {"spelled", "numbers", "codes", "walk", "spell", "decide", "lockstep"}
WORDS = (
    "lanes",
    "same",
    "bytes",
    "text",
    "sparse",
    "table",
    "grid",
    "float64",
    "float16",
    "int8",
    "bool",
    "uint16",
    "tensors",
    "null",
    "true",
)


def main() -> None:
    """Mutate and read so many files, and count what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bounds", action="store_true", help="compile the loops with checked indices")
    arguments = parser.parse_args()
    if arguments.bounds and os.environ.get("NUMBA_BOUNDSCHECK") != "1":
        with tempfile.TemporaryDirectory() as folder:  # numba reads these when it is imported; its cache knows nothing of them
            environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": folder}
            raise SystemExit(os.spawnve(os.P_WAIT, sys.executable, [sys.executable, *sys.argv], environment))
    loops()
    warnings.simplefilter("error")
    draw, began = random.Random(arguments.seed), time.perf_counter()
    counts, slowest, most = run(draw, arguments.files)
    for (kind, outcome), count in sorted(counts.items()):
        print(f"{kind:10} {outcome:8} {count:7,}")
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{arguments.files:,} files of seed {arguments.seed} in {time.perf_counter() - began:.0f} s: no fault")
    print(f"slowest {slowest:.2f} s; most traced memory {most / 2**20:.1f} MiB above the limit; process at most {resident:.0f} MiB")


def run(draw: random.Random, files: int) -> tuple[Counter[tuple[str, str]], float, int]:
    """Return how many files of each kind of mutation came to what, the longest time, and the most memory above the limit."""
    seeds, counts, slowest, most = list(examples().values()), Counter[tuple[str, str]](), 0.0, -SMALL
    whole = [written(text, tensors) for text, tensors in seeds]
    compiled = loops()
    reader.contents(whole[0], loops=compiled)
    for number in range(files):
        kind, make = KINDS[number % len(KINDS)]
        data = make(draw, seeds, whole)
        limit = reader.LIMIT if number // len(KINDS) % 20 == 0 else SMALL
        traced = number // len(KINDS) % 100 == 1
        faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
        try:
            outcome, seconds, above = judged(data, limit, compiled, traced)
            if number // len(KINDS) % 100 == 2:
                compare(data, limit, compiled)
            assert outcome == "corrupt" or kind != "damaged" or data in whole, "damage was not found"
        except BaseException:
            print(f"fault in file {number}, {kind}, limit {limit}: {data.hex()}", flush=True)
            raise
        faulthandler.cancel_dump_traceback_later()
        counts[kind, outcome] += 1
        slowest, most = max(slowest, seconds), max(most, above)
    return counts, slowest, most


def judged(data: bytes, limit: int, compiled: Any, traced: bool) -> tuple[str, float, int]:
    """Read a file and check what comes of it; returns that, the seconds it took, and the traced bytes above the limit."""
    if traced:
        tracemalloc.start()
    began = time.perf_counter()
    outcome, header, arrays = opened(data, limit, compiled)
    seconds = time.perf_counter() - began
    above = -limit
    if traced:
        above = tracemalloc.get_traced_memory()[1] - limit
        tracemalloc.stop()
    assert above < MODEL, f"{above} bytes above the limit"
    assert traced or seconds < SECONDS, f"{seconds} seconds"
    declared = [(name, tuple(shape), kind) for name, shape, kind, _, _ in header["tensors"]]
    assert declared == [(name, array.shape, array.dtype.name) for name, array in arrays.items()], "other arrays than declared"
    assert sum(array.nbytes for array in arrays.values()) <= limit
    return outcome, seconds, above


def opened(data: bytes, limit: int, compiled: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return what came of reading a file; an index outside its array in the loops is a fault."""
    try:
        return "arrays", *reader.contents(data, limit, compiled)
    except reader.CorruptArtifact as error:
        cause = error.__context__
        loop = isinstance(cause, IndexError) and innermost(cause.__traceback__) in LOOPS
        assert not loop, f"an index outside its array: {cause}"
        return "corrupt", {"tensors": []}, {}


def innermost(trace: TracebackType | None) -> str:
    """Return the name of the function in which an exception was raised."""
    name = ""
    while trace is not None:
        name, trace = trace.tb_frame.f_code.co_name, trace.tb_next
    return name


def compare(data: bytes, limit: int, compiled: Any) -> None:
    """Check that the plain loops make of a file what the compiled ones do."""
    plain, fast = opened(data, limit, None), opened(data, limit, compiled)
    assert plain[:2] == fast[:2], "plain and compiled loops do not agree"
    assert all(plain[2][name].tobytes() == array.tobytes() for name, array in fast[2].items()), "plain and compiled loops do not agree"


def examples() -> dict[str, tuple[str, list[Coded]]]:
    """Return the header and the tensors of a small file of every form, and of one of all together."""
    draw = np.random.default_rng(0)
    codes = np.round(draw.laplace(size=300, scale=2)).astype(np.int64)
    weights = draw.normal(size=(6, 5)).astype(np.float32)
    letters = np.frombuffer(b'{"laconic":{"format":"2","program":{}}}', np.uint8)
    tensors = {
        "same": Coded((3, 4), "float64", "same", stored=np.array([2.5])),
        "bytes": exactly(weights),
        "narrow": Coded((30,), "float32", "bytes", ("float16",), stored=weights.astype(np.float16).ravel()),
        "text": Coded((len(letters),), "uint8", "text", stored=letters),
        "sparse": exactly(np.where(draw.random((20, 15)) < 0.1, draw.normal(size=(20, 15)), 0)),
        "table": exactly(draw.choice(np.float32([-1, 0, 0.5]), (20, 15))),
        "flags": exactly(draw.random(40) < 0.3),
        "scalar": Coded((20, 15), "float32", "grid", (0, -40), codes, 0),
        "trellis": code_tensor(draw.normal(size=(10, 5, 3, 2)), -20, 0.1, 8)[0],
        "sparse trellis": code_tensor(draw.normal(size=(20, 15)) ** 5, 16, 0.3, 8)[0],
        "large": Coded((4,), "float64", "grid", (0, 100, 5), np.array([1 << 39, -(1 << 20), 0, 13]), 0),
        "empty": Coded((0, 7), "float32", "grid", (8, -40), codes[:0], 8),
    }
    files = {name: {name: tensor} for name, tensor in tensors.items()} | {"all": tensors}
    many = np.round(draw.laplace(size=(8, 20, 3, 3), scale=2)).astype(np.int64)
    lanes = {
        "kernels": code_tensor(draw.normal(size=(8, 20, 3, 3)), -20, 0.1, 8, lanes=4)[0],
        "odd": code_tensor(draw.normal(size=(30, 40)), -4, 0.1, 64, lanes=4)[0],
        "numbers": Coded((8, 20, 3, 3), "float32", "grid", (0, -40), many, lanes=4),
        "outliers": Coded((1100,), "float64", "grid", (0, 0), 40 * many.ravel()[:1100], lanes=4),
        "zeros": exactly(np.where(draw.random((30, 50)) < 0.1, draw.normal(size=(30, 50)), 0)).in_lanes(4),
        **{name: tensors[name] for name in ("bytes", "scalar")},
    }
    files |= {f"{name} in lanes": {name: lanes[name]} for name in ("kernels", "outliers", "zeros")} | {"lanes": lanes}
    return {name: (header(file), list(file.values())) for name, file in files.items()}


def header(tensors: dict[str, Coded]) -> str:
    """Return the header's text of a file."""
    return header_of(tensors, {"network": "zoo:lenet5"}, in_lanes(tensors)[1])


def written(text: str, tensors: list[Coded]) -> bytes:
    """Return a file of a header's text, whatever it says, and tensors."""
    named = {str(at): each for at, each in enumerate(tensors)}
    return sealed(written_tensors(text, named, *in_lanes(named))[0])


def sealed(body: bytes) -> bytes:
    """Return a file of a body, with the checksum that it should have."""
    check = reader.checksum(np.frombuffer(body, np.uint8))
    return reader.MAGIC + bytes([reader.VERSION]) + check.to_bytes(4, "little") + body


def changed(draw: random.Random, data: bytes, other: bytes) -> bytes:
    """Return bytes after one to four mutations."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, end = sorted((draw.randrange(len(data) + 1), draw.randrange(len(data) + 1)))
        mutation = draw.randrange(6)
        if mutation == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        elif mutation == 1:
            data = data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
        elif mutation == 2:
            data = data[:at]
        elif mutation == 3:
            data = data[:at] + draw.choice((draw.randbytes(draw.randrange(1, 9)), b"\0" * 8, b"\xff" * 8)) + data[at:]
        elif mutation == 4:
            data = data[:at] + data[min(end, at + draw.randrange(1, 9)) :]
        else:
            data = data[:at] + other[draw.randrange(len(other) + 1) :]
    return data


def reworded(draw: random.Random, text: str, other: str) -> str:
    """Return a header's text with numbers, words or letters changed."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        digits = [at for at, letter in enumerate(text) if letter.isdigit()]
        words = [word for word in WORDS if word in text]
        mutation = draw.randrange(5)
        if mutation == 0 and digits:
            at = draw.choice(digits)
            text = text[:at] + draw.choice(EXTREMES) + text[at + 1 :]
        elif mutation == 1 and words:
            text = text.replace(draw.choice(words), draw.choice(WORDS), 1)
        elif mutation == 2:
            at = draw.randrange(len(text) + 1)
            text = text[:at] + draw.choice(('"', "[", "]", "{", "}", ",", ":", "\\", "-", "[" * 600, "\xff", "[3,0,5],", "1,")) + text[at:]
        elif mutation == 3:
            at = draw.randrange(len(text) + 1)
            text = text[:at] + text[at + draw.randrange(1, 6) :]
        else:
            text = changed(draw, text.encode("latin-1"), other.encode("latin-1")).decode("latin-1")
    return text


Seeds = list[tuple[str, list[Coded]]]
Make = Callable[[random.Random, Seeds, list[bytes]], bytes]


def damaged(draw: random.Random, seeds: Seeds, whole: list[bytes]) -> bytes:
    """Return a file that is changed anywhere."""
    return changed(draw, draw.choice(whole), draw.choice(whole))


def forged(draw: random.Random, seeds: Seeds, whole: list[bytes]) -> bytes:
    """Return a file whose coded part is changed and whose checksum is right."""
    return sealed(changed(draw, draw.choice(whole)[BEFORE_BODY:], draw.choice(whole)[BEFORE_BODY:]))


def coded(draw: random.Random, seeds: Seeds, whole: list[bytes]) -> bytes:
    """Return a file whose header is whole, whose tensors are changed, and whose checksum is right."""
    at = draw.randrange(len(seeds))
    kept = min(len(written(seeds[at][0], [])), len(whole[at]))
    return sealed(whole[at][BEFORE_BODY:kept] + changed(draw, whole[at][kept:], draw.choice(whole)[BEFORE_BODY:]))


def misdescribed(draw: random.Random, seeds: Seeds, whole: list[bytes]) -> bytes:
    """Return a file whose header's text is changed before it is coded, and whose checksum is right."""
    text, tensors = draw.choice(seeds)
    return written(reworded(draw, text, draw.choice(seeds)[0]), tensors)


KINDS: list[tuple[str, Make]] = [("damaged", damaged), ("forged", forged), ("coded", coded), ("header", misdescribed)]

if __name__ == "__main__":
    main()
