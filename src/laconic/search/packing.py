"""The smallest `.lac` file of a network that keeps its accuracy: a bisection on the step of its weights."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic import fresh
from laconic.data import Split
from laconic.deliver import Say
from laconic.errors import UnreachableError
from laconic.files import write_bytes
from laconic.fresh import File
from laconic.pack.file import Coder, Packed, coder_of, pack_exactly
from laconic.pack.programs import Arrays
from laconic.runtimes import PACKED


@dataclass(frozen=True)
class Kept:
    """A packed network, and its accuracy on a split beside that of the network to the bit."""

    packed: Packed
    before: float  # share in [0, 1]
    after: float


def pack_within(
    arrays: Arrays, about: Mapping[str, Any], max_drop: float, split: Split, threads: int, states: int, say: Say, fast: bool = False
) -> Kept:
    """Return the file of the widest step that loses at most `max_drop` points of accuracy on `split`, decoded in a fresh process.

    The loss is taken to grow with the step, which it does but for noise: between two steps of the answer one may lose a little more.

    Args:
        arrays: the network, taken apart.
        about: what else the header says.
        max_drop: percentage points.
        split: to choose by: never the test split.
        threads: of the runtime.
        states: of the trellis.
        say: told each attempt.
        fast: the file is for speed of reading.

    Raises:
        LaconicError: there are no weights to code with loss.
        UnreachableError: every step loses more.
    """
    coder = coder_of(arrays.arrays, about, states, arrays.weights, arrays.exact, fast)
    before = accuracy(pack_exactly(arrays.arrays, about, arrays.weights), split, threads)

    def attempt(packed: Packed) -> float:
        found = accuracy(packed, split, threads)
        say(f"{packed.bits_per_weight:.3f} bits per weight, {len(packed.data):,} bytes: {100 * (before - found):+.2f} points lost")
        return found

    packed, after = widest(coder, attempt, before - max_drop / 100)
    return Kept(packed, before, after)


def widest(coder: Coder, score: Callable[[Packed], float], least: float) -> tuple[Packed, float]:
    """Return the file of the widest step whose score is at least `least`, by bisection, and its score.

    Raises:
        UnreachableError: there is none.
    """
    low, high, best = coder.steps[0] - 1, coder.steps[-1] + 1, None
    while high - low > 1:
        middle = (low + high) // 2
        packed = coder.at(middle)
        if (found := score(packed)) >= least - 1e-9:
            best, low = (packed, found), middle
        else:
            high = middle
    if best is None:
        raise UnreachableError("the accuracy is lost with the finest step already; allow a larger --max-drop, or use --lossless")
    return best


def accuracy(packed: Packed, split: Split, threads: int) -> float:
    """Return the accuracy of a packed network, decoded in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.lac"
        write_bytes(path, packed.data)
        return fresh.score_file(File(path, PACKED), split, threads).top1
