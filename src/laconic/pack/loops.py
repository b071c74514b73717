"""The reader's inner loops, compiled where numba is installed: the same source, the same bytes, a hundred times as fast.

`lockstep`, which handles arrays there, is written out here number by number, with the same functions: compilers make more of that.
"""

import sys
import zlib
from typing import Any

import numpy as np

from laconic.numeric.compiled import compiled, is_compiled
from laconic.pack import reader
from laconic.pack.reader import after, number, place

LOOPS = ("code", "decide", "large", "look", "entry", "after", "walk", "spell")
_LANES = ("after", "number", "place", "seek", "draw", "refill", "settle", "lockstep")


def loops() -> dict[str, Any]:
    """Return the reader's loops, compiled or as they are, and `checksum`."""
    side_by_side = compiled(sys.modules[__name__], _LANES).lockstep if is_compiled() else reader.lockstep
    return {**vars(compiled(reader, LOOPS)), "lockstep": side_by_side, "checksum": zlib.crc32}


def lockstep(found: Any, scales: Any, count: int, tables: Any, trellis: Any, states: Any, words: Any, at: int) -> int:
    """Read the numbers of a tensor, one of every lane in each step; returns the place in the words."""
    lanes, length, half = len(states), len(scales), 0 if trellis[0] == 0 else 1
    memory, near, tokens = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
    numbers, places, behind = found.ravel(), scales.ravel(), (len(found) - length) * lanes
    for step in range(length):
        if at > len(words) - lanes:
            break
        first, some = step * lanes, -(-(count - step) // length)
        seek(near, tokens, numbers, first, behind - lanes, places, tables[0], half, memory, some)
        draw(tokens, tables[1], states, some)
        at = refill(states, words, at, some)
        settle(numbers, first + behind, near, tokens, half, trellis, memory, some)
    return at


def seek(near: Any, tokens: Any, numbers: Any, at: int, beside: int, scales: Any, many: int, half: int, memory: Any, some: int) -> None:
    """Find what is near the next number of each lane, and where its table begins."""
    for lane in range(some):
        above = np.uint64(at + lane)
        near[lane] = 2 * np.int64(numbers[above + np.uint64(beside)]) + numbers[above]
        tokens[lane] = place(near[lane], half, memory[lane] & 1, np.int64(scales[above]), many) << 11


def draw(tokens: Any, entries: Any, states: Any, some: int) -> None:
    """Read a token of each lane, by the table that begins at what stands in its place."""
    for lane in range(some):
        state = states[lane]
        entry = np.int64(entries[np.uint64(tokens[lane] | state & 2047)])
        states[lane] = (entry >> 12 & 8191) * (state >> 11) + (entry & 4095)
        tokens[lane] = entry >> 25


def refill(states: Any, words: Any, at: int, some: int) -> int:
    """Give each state that is below 2**16 the next word; returns the place in the words."""
    for lane in range(some):
        state, low = states[lane], states[lane] < 1 << 16
        states[lane] = state << 16 | words[np.uint64(at)] if low else state
        at += low
    return at


def settle(numbers: Any, at: int, near: Any, tokens: Any, half: int, trellis: Any, memory: Any, some: int) -> None:
    """Write down the numbers that tokens are, and what the trellis comes to."""
    for lane in range(some):
        value = number(tokens[lane], near[lane], memory[lane] & 1, half)
        numbers[np.uint64(at + lane)] = value
        memory[lane] = after(memory[lane], value, trellis)
