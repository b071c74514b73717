"""Trellis-coded quantization: the codes of least error and bits, where two quantizers take turns by a trellis.

Source: M. W. Marcellin, T. R. Fischer, "Trellis Coded Quantization of Memoryless and Gauss-Markov Sources", IEEE Transactions on
Communications 38, 1990; T. R. Fischer, M. Wang, "Entropy-Constrained Trellis-Coded Quantization", IEEE Transactions on Information Theory
38, 1992; trellises by G. Ungerboeck, "Channel Coding with Multilevel/Phase Signals", IEEE Transactions on Information Theory 28, 1982,
table I. One quantizer has the even multiples of the step, the other the odd ones and zero, as in H. Schwarz et al., "Quantization and
Entropy Coding in the Versatile Video Coding (VVC) Standard", IEEE Transactions on Circuits and Systems for Video Technology 31, 2021.

With one state there is one quantizer, and this is rate-distortion optimal scalar quantization.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laconic.numeric.compiled import compiled
from laconic.pack.reader import TRELLISES

CLASSES, LEVELS = 24, 16  # rows of the table of bits; sizes whose bits are told apart
_SEGMENT = 1 << 14  # values that are decided on together
_NEVER = 1e300


def best_codes(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    classes: NDArray[np.int64],
    bits: NDArray[np.float64],
    worth: float,
    states: int,
) -> NDArray[np.int64]:
    """Return the codes of least weighted squared error plus bits, by the Viterbi algorithm, segment by segment.

    Args:
        values: in steps, in the order of coding; (n,).
        weights: of their squared errors; (n,).
        classes: which row of `bits` each is coded by; (n,).
        bits: (2, CLASSES, LEVELS + 1): what a code of each size costs in each quantizer, with its sign; the last: what each more does.
        worth: squared steps that a bit is worth.
        states: of the trellis; 0 or 1: one quantizer.
    """
    count, length = max(1, states), min(len(values), _SEGMENT)
    room = np.zeros((length, count), np.int64), np.zeros((length, count), np.int64), np.zeros(count), np.zeros(count)
    codes = np.zeros(len(values), np.int64)
    trellis = (count, *TRELLISES.get(states, (0, 0)))
    loops = compiled(sys.modules[__name__], ("nearest", "path"))
    loops.path(values, weights, classes, bits, float(worth), trellis, codes, room)
    return codes


def path(values: Any, weights: Any, classes: Any, bits: Any, worth: float, trellis: Any, codes: Any, room: Any) -> None:
    """Fill `codes`; see `best_codes`. `room` has the codes and the states before of a segment, and the costs of all states, twice."""
    states, feedback, forward = trellis
    chosen, before, costs, later = room
    first = 0
    for start in range(0, len(values), len(chosen)):
        end = min(start + len(chosen), len(values))
        costs[:] = _NEVER
        costs[first] = 0.0
        for at in range(start, end):
            later[:] = _NEVER
            for state in range(states):
                if costs[state] >= _NEVER:
                    continue
                second = state & 1
                for odd in range(2):
                    cost, code = nearest(abs(values[at]), odd, second if states > 1 else -1, bits[second, classes[at]], weights[at], worth)
                    after = (state >> 1) ^ ((feedback >> 1) * second) ^ ((forward >> 1) * odd)
                    if costs[state] + cost < later[after]:
                        later[after] = costs[state] + cost
                        chosen[at - start, after], before[at - start, after] = code, state
            costs[:] = later
        first = int(np.argmin(costs))
        last = first
        for at in range(end - 1, start - 1, -1):
            codes[at] = -chosen[at - start, last] if values[at] < 0 else chosen[at - start, last]
            last = before[at - start, last]


def nearest(size: float, odd: int, second: int, bits: Any, weight: float, worth: float) -> tuple[float, int]:
    """Return the least cost of a code of one parity, and the code: the nearest, the one below it, or the smallest.

    Args:
        size: of the value, in steps.
        odd: the parity.
        second: whether the quantizer is the second; -1: there is one, of all multiples.
        bits: of codes of each size.
        weight: of the squared error.
        worth: squared steps that a bit is worth.
    """
    middle = size if second < 0 else (size + second) / 2
    rounded = 2 * int((middle - odd) / 2 + 0.5) + odd if middle > odd else odd
    least, best = _NEVER, odd
    for code in (rounded, rounded - 2, odd):
        if code < 0:
            continue
        level = code if second < 0 else 2 * code - (second if code else 0)
        rate = bits[min(code, LEVELS - 1)] + max(0, code - LEVELS + 1) * bits[LEVELS]
        cost = weight * (size - level) ** 2 + worth * rate
        if cost < least:
            least, best = cost, code
    return least, best
