"""How many bits whole numbers take from a coder that adapts to the rows and columns they stand in: a smooth estimate to train against."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_LEAST = 0.04  # mean size of the numbers of a row and column that are all but zero
_PRIOR = 8.0  # numbers that a row or column is taken to have seen of the whole table's mean size


def expected_sizes(multiples: Tensor) -> Tensor:
    """Return how large each number of a table may be expected to be by its row and its column: the product of their means.

    Args:
        multiples: `(rows, columns)`.

    Returns:
        Positive numbers `(rows, columns)`, without gradient.
    """
    sizes = multiples.detach().abs()
    mean = sizes.mean() + 1e-6
    of_rows, of_columns = ((sizes.sum(axis, keepdim=True) + _PRIOR * mean) / (sizes.shape[axis] + _PRIOR) for axis in (1, 0))
    return (of_rows * of_columns / mean).clamp_min(_LEAST)


def logistic_bits(multiples: Tensor, sizes: Tensor) -> Tensor:
    """Return what each number costs where numbers follow a logistic distribution about 0, in bits: `-log2(F(x + 1/2) - F(x - 1/2))`.

    It is defined between whole numbers too, and its gradient draws large numbers to 0, the more so where small ones are expected.

    Source: J. Ballé, D. Minnen, S. Singh, S. J. Hwang, N. Johnston, "Variational Image Compression with a Scale Hyperprior", ICLR 2018,
    eq. 10 (the interval's probability; with a Gaussian there).

    Args:
        multiples: any shape.
        sizes: mean absolute value of the distribution of each, `2 ln 2` times its scale; broadcasts to `multiples`.
    """
    sharpness = 2 * math.log(2) / sizes
    upper, lower = (multiples.abs() + 0.5) * sharpness, (multiples.abs() - 0.5) * sharpness
    between = torch.log(-torch.expm1(-sharpness))
    return -(F.logsigmoid(upper) + F.logsigmoid(-lower) + between) / math.log(2)


def adaptive_bits(multiples: Tensor) -> Tensor:
    """Return the bits of all numbers of a tensor together, a scalar: each is coded as its row and column let expect it.

    Args:
        multiples: outputs first, e.g. `(out, in, height, width)`; of one axis: a single row.
    """
    table = multiples.reshape(multiples.shape[0], -1) if multiples.ndim > 1 else multiples.reshape(1, -1)
    return logistic_bits(table, expected_sizes(table)).sum()
