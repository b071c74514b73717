"""Trellis-coded quantization: the codes of least error and bits, where two quantizers take turns by a trellis.

Source: M. W. Marcellin, T. R. Fischer, "Trellis Coded Quantization of Memoryless and Gauss-Markov Sources", IEEE Transactions on
Communications 38, 1990; T. R. Fischer, M. Wang, "Entropy-Constrained Trellis-Coded Quantization", IEEE Transactions on Information Theory
38, 1992; trellises by G. Ungerboeck, "Channel Coding with Multilevel/Phase Signals", IEEE Transactions on Information Theory 28, 1982,
table I.
There are two pairs of quantizers. The first always has the even multiples of the step; the second has the odd ones (as in Fischer and
Wang: least error at a bit for each value and more), or the odd ones and zero, as in H. Schwarz et al., "Quantization and Entropy Coding in
the Versatile Video Coding (VVC) Standard", IEEE Transactions on Circuits and Systems for Video Technology 31, 2021 (where most are zero).

With no trellis there is one quantizer, and this is rate-distortion optimal scalar quantization.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laconic.numeric.compiled import compiled
from laconic.pack import reader
from laconic.pack.reader import TRELLISES

CLASSES, LEVELS = 24, 16  # rows of the table of bits; sizes whose bits are told apart
_SEGMENT = 1 << 14  # values that are decided on together
_NEVER = 1e300


def best_multiples(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    classes: NDArray[np.int64],
    bits: NDArray[np.float64],
    worth: float,
    states: int,
    nearer: NDArray[np.float64],
    piece: int = 0,
) -> NDArray[np.int64]:
    """Return the multiples of least weighted squared error plus bits, by the Viterbi algorithm, segment by segment.

    Args:
        values: in steps, in the order of coding; (n,).
        weights: of their squared errors; (n,).
        classes: which row of `bits` each is coded by; (n,).
        bits: (2, CLASSES, LEVELS + 1): what a code of each size costs in each quantizer, with its sign; the last: what each more does.
        worth: squared steps that a bit is worth.
        states: of the trellis; 0: one quantizer; below 0: the second quantizer has no zero.
        nearer: by how many steps multiples of size 0, 1, ... are nearer to zero; the last, those of all larger sizes too.
        piece: of how many values each the trellis begins anew; 0: it never does.
    """
    count, length = max(1, abs(states)), min(len(values), _SEGMENT)
    room = np.zeros((length, count), np.int64), np.zeros((length, count), np.int64), np.zeros(count), np.zeros(count)
    found = np.zeros(len(values), np.int64)
    trellis = (states, *TRELLISES.get(abs(states), (0, 0)))
    loops = compiled(sys.modules[__name__], ("nearest", "path"))
    loops.path(
        values,
        weights,
        classes,
        bits,
        float(worth),
        trellis,
        nearer,
        piece or len(values),
        found,
        (*room, np.zeros((2, 2)), np.zeros((2, 2), np.int64)),
    )
    return found


def quantizers(multiples: NDArray[np.int64], states: int, piece: int = 0) -> NDArray[np.int64]:
    """Return which quantizer each multiple is of: 0, 1; the trellis begins anew with each piece of so many (0: never)."""
    found = np.zeros_like(multiples)
    if states:
        loops = compiled(reader, ("after",))
        compiled(sys.modules[__name__], ("trace",)).trace(
            multiples, loops.after, (states, *TRELLISES[abs(states)]), piece or len(multiples), found
        )
    return found


def trace(multiples: Any, after: Any, trellis: Any, piece: int, found: Any) -> None:
    """Fill `found` with the quantizer of each multiple; `after` is the reader's."""
    state = 0
    for at in range(len(multiples)):
        if at % piece == 0:
            state = 0
        found[at] = state & 1
        state = after(state, multiples[at], trellis)


def path(
    values: Any, weights: Any, classes: Any, bits: Any, worth: float, trellis: Any, nearer: Any, piece: int, found: Any, room: Any
) -> None:
    """Fill `found`; see `best_multiples`.

    `room` has the multiples and the states before of a segment, the costs of all states, twice, and the least cost and its multiple by
    quantizer and branch.
    """
    states, feedback, forward = trellis
    chosen, before, costs, later, least, best = room
    first, end = 0, 0
    while end < len(values):
        start = end
        first = first if start % piece else 0
        end = min(start + len(chosen), start + piece - start % piece, len(values))
        costs[:] = _NEVER
        costs[first] = 0.0
        for at in range(start, end):
            for second in range(2 if states else 1):
                for odd in range(2):
                    row = bits[second, classes[at]]
                    least[second, odd], best[second, odd] = nearest(values[at], odd, second, states, row, weights[at], worth, nearer)
            later[:] = _NEVER
            for state in range(len(costs)):
                if costs[state] >= _NEVER:
                    continue
                second = state & 1
                for odd in range(2):
                    after = (state >> 1) ^ ((feedback >> 1) * second) ^ ((forward >> 1) * odd)
                    if costs[state] + least[second, odd] < later[after]:
                        later[after] = costs[state] + least[second, odd]
                        chosen[at - start, after], before[at - start, after] = best[second, odd], state
            costs[:] = later
        first = int(np.argmin(costs))
        last = first
        for at in range(end - 1, start - 1, -1):
            found[at] = chosen[at - start, last]
            last = before[at - start, last]


def nearest(value: float, odd: int, second: int, states: int, bits: Any, weight: float, worth: float, nearer: Any) -> tuple[float, int]:
    """Return the least cost of a multiple of one branch, and it: the nearest, the next towards zero, or the smallest.

    Args:
        value: in steps.
        odd: the branch.
        second: the quantizer.
        states: of the trellis, as in `best_multiples`.
        bits: of codes of each size.
        weight: of the squared error.
        worth: squared steps that a bit is worth.
        nearer: shifts of multiples by size.
    """
    mirrored = value < 0 and states >= 0  # quantizers with zero are symmetric, branch by branch
    place = -value if mirrored else value
    period, half = (4, 1) if states else (2, 0)
    smallest = 2 * odd + second if states else odd
    if states > 0 and second:
        smallest = odd
        rest = 1 if odd else 3
    else:
        rest = smallest
    if smallest == 3:
        smallest = -1
    rounded = rest + period * int(np.floor((place - rest) / period + 0.5))
    least, best = _NEVER, smallest
    for multiple in (rounded, rounded - period if place > 0 else rounded + period, smallest):
        if states >= 0 and multiple < 0:
            continue
        size = abs(multiple)
        code = (size + second) >> half
        shift = nearer[min(size, len(nearer) - 1)]
        error = place - (multiple - shift if multiple > 0 else multiple + shift)
        cost = weight * error**2 + worth * (bits[min(code, LEVELS - 1)] + max(0, code - LEVELS + 1) * bits[LEVELS])
        if cost < least:
            least, best = cost, multiple
    return least, -best if mirrored else best
