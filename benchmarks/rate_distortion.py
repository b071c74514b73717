"""Rate-distortion functions under mean-square error: what no coder can beat.

Sources: T. M. Cover, J. A. Thomas, "Elements of Information Theory", 2nd ed., 2006, theorems 10.3.2 and 10.3.3 (Gaussian, reverse
water-filling), problem 10.8 (Shannon's lower bound); R. E. Blahut, "Computation of Channel Capacity and Rate-Distortion Functions", IEEE
Transactions on Information Theory 18, 1972, theorem 6.
"""

from functools import cache
from math import e, log2, pi

import numpy as np
from numpy.typing import NDArray

_EDGE, _CELL = 10.0, 0.025  # standard deviations that are kept of a source, and that lie between two points of its grid
_FINE = 0.04  # distortion below which the grid is too coarse, and Shannon's bound is as good


def gaussian(distortion: float) -> float:
    """Return the bits of a Gaussian source of variance 1."""
    return max(0.0, -log2(distortion) / 2)


def gaussians(variances: NDArray[np.float64], counts: NDArray[np.int64], distortion: float) -> float:
    """Return the bits of each sample of independent Gaussian sources, so many of each variance, at a distortion on the mean."""
    low, high = 0.0, float(variances.max())
    for _ in range(100):
        level = (low + high) / 2
        if (counts * np.minimum(variances, level)).sum() < distortion * counts.sum():
            low = level
        else:
            high = level
    return float((counts * np.maximum(0, np.log2(np.maximum(variances, 1e-300) / high) / 2)).sum() / counts.sum())


def laplacian(distortion: float) -> float:
    """Return the bits of a Laplacian source of variance 1: by Blahut and Arimoto, at small distortions by Shannon's lower bound."""
    if distortion < _FINE:
        return log2(2 * e / 2**0.5) - log2(2 * pi * e * distortion) / 2
    distortions, rates = np.array(_curve()).T
    return float(np.interp(log2(distortion), np.log2(distortions), rates))


@cache
def _curve() -> list[tuple[float, float]]:
    """Return distortion and rate of the Laplacian source at slopes from steep to flat."""
    points = np.arange(-_EDGE, _EDGE + _CELL / 2, _CELL)
    source = np.exp(-np.abs(points) * 2**0.5)
    return [_blahut(points, source / source.sum(), slope) for slope in 1 / (2 * np.geomspace(0.03, 0.8, 24))]


def _blahut(points: NDArray[np.float64], source: NDArray[np.float64], slope: float) -> tuple[float, float]:
    """Return distortion and rate in bits where the rate falls by `slope` nats for each unit of distortion."""
    errors = np.square(points[:, None] - points)
    kernel, output = np.exp(-slope * errors), np.full(len(points), 1 / len(points))
    for _ in range(2000):
        scales = source / (kernel @ output)
        factors = scales @ kernel
        output = output * factors
        if np.max(factors) < 1 + 1e-5:
            break
    joint = (source / (kernel @ output))[:, None] * kernel * output
    distortion = float((joint * errors).sum())
    divergence = joint * np.log2(np.maximum(joint, 1e-300) / np.maximum(source[:, None] * joint.sum(0), 1e-300))
    return distortion, float(divergence.sum())
