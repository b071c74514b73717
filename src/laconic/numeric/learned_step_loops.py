"""The learned step's value and gradient in one pass over memory each, for one step and one pair of bounds: plain loops, to be compiled."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]

NAMES = ("widen", "narrow", "value", "slopes", "gradient", "value16", "gradient16")
LANES = 2048  # numbers at a time, and sums side by side, which are added in one order on every processor


def widen(bits: Numbers, out: Numbers) -> None:
    """Write what the bits of bfloat16 numbers stand for to `out`, float32."""
    for i in range(bits.size):
        out[i] = np.uint32(np.uint32(bits[i]) << np.uint32(16)).view(np.float32)


def narrow(x: Numbers, out: Numbers) -> None:
    """Write the bits of the nearest bfloat16 numbers to `out`; ties go to even ones."""
    for i in range(x.size):
        bits = np.float32(x[i]).view(np.uint32)
        out[i] = np.uint16(np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


def value(x: Numbers, step: np.float32, low: np.float32, high: np.float32, out: Numbers) -> None:
    """Write `step * clamp(round(x / step), low, high)` to `out`, float32; a zero is a positive one."""
    for i in range(x.size):
        out[i] = np.rint(min(max(x[i] / step, low), high)) * step + np.float32(0)


def slopes(x: Numbers, grad: Numbers, step: np.float32, low: np.float32, high: np.float32, out: Numbers, sums: Numbers) -> None:
    """Write the gradient of the inputs to `out` and add what each gives to that of the step to `sums`; float32."""
    for i in range(x.size):
        ratio = x[i] / step
        passed = grad[i] if (ratio >= low) & (ratio <= high) else np.float32(0)
        sums[i] += np.rint(min(max(ratio, low), high)) * grad[i] - ratio * passed
        out[i] = passed


def gradient(x: Numbers, grad: Numbers, step: np.float32, low: np.float32, high: np.float32, out: Numbers) -> float:
    """Write the gradient of the inputs to `out` and return that of the step; float32."""
    sums = np.zeros(LANES, np.float32)
    for start in range(0, x.size, LANES):
        part = slice(start, start + LANES)
        slopes(x[part], grad[part], step, low, high, out[part], sums)
    return float(np.sum(sums.astype(np.float64)))


def value16(x: Numbers, step: np.float32, low: np.float32, high: np.float32, out: Numbers) -> None:
    """Do as `value`, on the bits of bfloat16 numbers."""
    wide, result = np.empty(LANES, np.float32), np.empty(LANES, np.float32)  # not in place, which would not be vectorized
    for start in range(0, x.size, LANES):
        bits = x[start : start + LANES]
        widen(bits, wide[: bits.size])
        value(wide[: bits.size], step, low, high, result)
        narrow(result[: bits.size], out[start : start + LANES])


def gradient16(x: Numbers, grad: Numbers, step: np.float32, low: np.float32, high: np.float32, out: Numbers) -> float:
    """Do as `gradient`, on the bits of bfloat16 numbers."""
    sums = np.zeros(LANES, np.float32)
    wide, given, result = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for start in range(0, x.size, LANES):
        bits = x[start : start + LANES]
        widen(bits, wide[: bits.size])
        widen(grad[start : start + LANES], given[: bits.size])
        slopes(wide[: bits.size], given, step, low, high, result, sums)
        narrow(result[: bits.size], out[start : start + LANES])
    return float(np.sum(sums.astype(np.float64)))
