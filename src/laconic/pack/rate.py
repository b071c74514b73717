"""Rate-distortion optimal coding of a tensor: the codes, the step and the shifts of small values, for a worth of bits.

What a code costs depends on the codes around it, which are not known before; so a few rounds alternate between the best codes for a
table of costs and the costs of the codes found (P. A. Chou, T. Lookabaugh, R. M. Gray, "Entropy-Constrained Vector Quantization",
IEEE Transactions on Acoustics, Speech, and Signal Processing 37, 1989). Costs differ by how large weights are in a row and column, as the
coder's contexts do.
"""

from dataclasses import dataclass
from math import e, log2, pi

import numpy as np
from numpy.typing import NDArray

from laconic.pack.reader import LEAST, levels, piece, step_size
from laconic.pack.trellis import CLASSES, LEVELS, best_multiples, quantizers
from laconic.pack.writer import Coded

_ROUNDS = 3
_PRIOR = 8.0  # codes that a class is taken to have seen of the whole tensor's
_SHIFTS = 3  # sizes whose values are shifted apart: 1, 2, and what is larger


@dataclass(frozen=True)
class Quality:
    """What coding kept of a tensor; bits are those of one weight."""

    mean_square_error: float
    decibels: float  # signal to noise
    gaussian_bound: float  # bits that any coder needs for a Gaussian source of this variance at this error
    shannon_bound: float  # lower bound for a source of these values' differential entropy


def code_tensor(
    array: NDArray[np.floating], step: int, worth: float, states: int, importance: NDArray[np.floating] | None = None, lanes: int = 0
) -> tuple[Coded, NDArray[np.float32]]:
    """Return a tensor coded with loss, and what it is decoded to.

    Args:
        array: the weights, outputs first.
        step: the step is 2**(step / 16).
        worth: squared steps that a bit is worth, 0.1 to 0.4; more makes the tensor smaller.
        states: of the trellis; 0: none.
        importance: of the squared error of each entry, in the shape of the tensor; None: all alike.
        lanes: that a large tensor is coded in, see `laconic.pack.lanes`; 0: none.
    """
    values = array.astype(np.float64).ravel() / step_size(step)
    weights = np.ones(len(values)) if importance is None else importance.astype(np.float64).ravel() / max(float(importance.mean()), 1e-30)
    classes = _classes(np.abs(values), array.shape)
    length = piece(len(values), lanes) if lanes and len(values) >= LEAST else 0
    found = [_searched(values, weights, classes, worth, each, length) for each in ((states, -states) if states else (0,))]
    _, best, shifts, multiples = min(found, key=lambda each: each[0])
    coded = Coded(array.shape, "float32", "grid", (best, step, *shifts), multiples, best, lanes=lanes if length else 0)
    return coded, decoded(coded)


def decoded(coded: Coded) -> NDArray[np.float32]:
    """Return what a tensor of form `grid` is read as."""
    assert coded.codes is not None
    _, step, *nearer = map(int, coded.settings)
    found: NDArray[np.float32] = levels(coded.codes.ravel(), "float32", step, nearer).reshape(coded.shape)
    return found


def _searched(
    values: NDArray[np.float64], weights: NDArray[np.float64], classes: NDArray[np.int64], worth: float, states: int, length: int
) -> tuple[float, int, list[int], NDArray[np.int64]]:
    """Return the bits beyond a Gaussian bound, up to a constant, the trellis, the shifts and the multiples."""
    bits, shifts, multiples, cost = _first_bits(np.abs(values), states), [0] * _SHIFTS, np.zeros(len(values), np.int64), 0.0
    for _ in range(_ROUNDS if len(values) else 0):
        nearer = np.array([0, *shifts]) / 64
        multiples = best_multiples(values, weights, classes, bits, worth, states, nearer, length)
        second = quantizers(multiples, states, length)
        bits = _bits(multiples, second, classes, states)
        shifts = _shifts(values, multiples)
        codes = _codes(multiples, second, states)
        rate = bits[second, classes, np.minimum(codes, LEVELS - 1)].mean() + np.maximum(0, codes - LEVELS + 1).mean()
        error = (weights * np.square(values - _placed(multiples, shifts))).mean()
        cost = float(rate + np.log2(max(error, 1e-30)) / 2)
    return cost, states, shifts, multiples


def quality(array: NDArray[np.floating], found: NDArray[np.floating]) -> Quality:
    """Return how near a decoded tensor is, and the bounds for its error.

    Sources of the bounds: T. M. Cover, J. A. Thomas, "Elements of Information Theory", 2nd ed., 2006, theorem 10.3.2 (Gaussian) and problem
    10.8 (Shannon's lower bound). The differential entropy is estimated from spacings (O. Vasicek, "A Test for Normality Based on Sample
    Entropy", Journal of the Royal Statistical Society B 38, 1976).
    """
    values = array.astype(np.float64).ravel()
    error = float(np.mean((values - found.astype(np.float64).ravel()) ** 2))
    power, variance = float(np.mean(values**2)), float(values.var())
    if not error or not variance:
        return Quality(error, float("inf"), float("inf"), float("inf"))
    entropy = differential_entropy(values)
    return Quality(
        error, 10 * log2(power / error) / log2(10), max(0.0, log2(variance / error) / 2), max(0.0, entropy - log2(2 * pi * e * error) / 2)
    )


def differential_entropy(values: NDArray[np.float64]) -> float:
    """Return an estimate in bits of the differential entropy of what values are drawn from, from their spacings."""
    ordered, count = np.sort(values), len(values)
    apart = max(1, round(count**0.5 / 2))
    low, high = np.arange(count) - apart, np.arange(count) + apart
    gaps = ordered[np.minimum(high, count - 1)] - ordered[np.maximum(low, 0)]
    spans = np.minimum(high, count - 1) - np.maximum(low, 0)
    return float(np.mean(np.log2(np.maximum(gaps, 1e-30) * count / np.maximum(spans, 1))))


def _classes(sizes: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Sort weights by how large those of their row and column are."""
    if len(shape) < 2 or not sizes.size:
        return np.full(sizes.size, CLASSES // 2)
    table = sizes.reshape(shape[0], -1) + 1e-9
    expected = table.mean(1, keepdims=True) * table.mean(0, keepdims=True) / table.mean() ** 2
    found: NDArray[np.int64] = np.clip(np.round(4 * np.log2(expected)) + CLASSES // 2, 0, CLASSES - 1).astype(np.int64).ravel()
    return found


def _first_bits(sizes: NDArray[np.float64], states: int) -> NDArray[np.float64]:
    """Return costs to begin with: sizes are taken to fall off geometrically."""
    mean = max(float(sizes.mean()) / (2 if states > 1 else 1), 0.3) if sizes.size else 1.0
    bits = np.full((2, CLASSES, LEVELS + 1), 1 / (mean * np.log(2)))
    bits[:, :, :LEVELS] = np.where(np.arange(LEVELS) > 0, np.arange(LEVELS) / (mean * np.log(2)) + 1, 0.5)
    return bits


def _bits(multiples: NDArray[np.int64], second: NDArray[np.int64], classes: NDArray[np.int64], states: int) -> NDArray[np.float64]:
    """Return what codes of each size cost, by quantizer and class, from how often they are used."""
    sizes = np.minimum(_codes(multiples, second, states), LEVELS - 1)
    counts = np.bincount((second * CLASSES + classes) * LEVELS + sizes, minlength=2 * CLASSES * LEVELS).reshape(2, CLASSES, LEVELS)
    of_all = counts.sum(1, keepdims=True) + 0.1
    smooth = counts + _PRIOR * of_all / of_all.sum(2, keepdims=True)
    bits = np.ones((2, CLASSES, LEVELS + 1))
    bits[:, :, :LEVELS] = -np.log2(smooth / smooth.sum(2, keepdims=True)) + (np.arange(LEVELS) > 0)
    return bits


def _codes(multiples: NDArray[np.int64], second: NDArray[np.int64], states: int) -> NDArray[np.int64]:
    """Return the sizes of the codes of multiples."""
    return (np.abs(multiples) + second) >> (1 if states else 0)


def _placed(multiples: NDArray[np.int64], shifts: list[int]) -> NDArray[np.float64]:
    """Return where multiples are decoded to, in steps."""
    nearer = np.array([0, *shifts]) / 64
    found: NDArray[np.float64] = multiples - np.sign(multiples) * nearer[np.minimum(np.abs(multiples), len(shifts))]
    return found


def _shifts(values: NDArray[np.float64], levels: NDArray[np.int64]) -> list[int]:
    """Return by how many 64ths of a step values of size 1, 2 and more lie nearer to zero than their levels, on the mean."""
    sizes, found = np.minimum(np.abs(levels), _SHIFTS), list[int]()
    for size in range(1, _SHIFTS + 1):
        chosen = sizes == size
        gap = (np.abs(levels[chosen]) - np.sign(levels[chosen]) * values[chosen]).mean() if chosen.any() else 0.0
        found.append(int(np.clip(round(64 * gap), -63, 63)))
    return found
