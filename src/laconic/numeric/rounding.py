"""Rounding to a grid: codes, scales and how a range is chosen. Tensors in, tensors out."""

import math

import torch
from torch import Tensor


def levels(bits: int, signed: bool) -> tuple[int, int]:
    """Return the lowest and highest code of a width.

    >>> levels(8, signed=True), levels(4, signed=False)
    ((-128, 127), (0, 15))
    """
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def broadcast(values: Tensor, like: Tensor, axis: int | None, group: Tensor | None = None) -> Tensor:
    """Shape `values` so that they multiply `like`, each its channel along `axis` or its group.

    Args:
        values: a scalar, one per channel, or `(channels, groups)`.
        like: what they multiply.
        axis: of the channels.
        group: the group of each entry of a channel, of the shape of `like` without `axis`; None: there are no groups.
    """
    if group is not None and axis is not None:
        return values.index_select(1, group.flatten()).reshape(-1, *group.shape).movedim(0, axis)
    if axis is None or values.ndim == 0:
        return values
    shape = [1] * like.ndim
    shape[axis] = -1
    return values.reshape(shape)


def through(value: Tensor, carrier: Tensor) -> Tensor:
    """Return `value`, exactly, with the gradient of `carrier`, which is finite."""
    return value.detach() + (carrier - carrier.detach())


def round_through(x: Tensor) -> Tensor:
    """Round to the nearest whole number (ties to even); the gradient passes unchanged."""
    return through(torch.round(x), x)


def per_channel(tensor: Tensor, axis: int | None) -> Tensor:
    """Return the entries as rows, one row per channel along `axis`; one row in all for None."""
    return tensor.reshape(1, -1) if axis is None else tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


def per_group(tensor: Tensor, axis: int, group_size: int) -> Tensor:
    """Return the entries as rows, `group_size` consecutive entries of a channel to the row: `(channels * groups, group_size)`."""
    return per_channel(tensor, axis).reshape(-1, group_size)


def consecutive_groups(shape: tuple[int, ...], groups: int) -> Tensor:
    """Return the group of each entry of a channel of `shape`, in so many groups of consecutive entries of the same size.

    >>> consecutive_groups((2, 3), groups=3).tolist()
    [[0, 0, 1], [1, 2, 2]]
    """
    return torch.arange(groups).repeat_interleave(math.prod(shape) // groups).reshape(shape)


def symmetric_scale(largest: Tensor, bits: int) -> Tensor:
    """Return the scale that maps `largest` (magnitudes, any shape) to the highest signed code; where it is zero, as if it were 1.

    The lowest code is left unused, so that the grid is symmetric (B. Jacob et al., "Quantization and Training of Neural Networks
    for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3).
    """
    high = levels(bits, signed=True)[1]
    return torch.where(largest > 0, largest, torch.ones_like(largest)) / high


def asymmetric_grid(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return scale and zero point of unsigned codes that cover [low, high] and hold 0.0 exactly (Jacob et al. 2018, eq. 1)."""
    low, high = torch.clamp(low, max=0.0), torch.clamp(high, min=0.0)
    top = levels(bits, signed=False)[1]
    scale = torch.where(high > low, (high - low) / top, torch.ones_like(high))
    zero_point = torch.clamp(torch.round(-low / scale), 0, top)
    return scale, zero_point


def quantization_error(rows: Tensor, scale: Tensor, bits: int, zero_point: Tensor | None = None) -> Tensor:
    """Return the mean square error of each row of `(rows, n)` under rounding to a grid of its own.

    Args:
        rows: the values.
        scale: distance between levels, `(rows,)`.
        bits: width of a code.
        zero_point: code of 0.0, `(rows,)`, of unsigned codes; None: codes are symmetric, signed and without the lowest.
    """
    top = levels(bits, signed=zero_point is None)[1]
    steps = torch.round(rows / scale[:, None])
    steps = steps.clamp(-top, top) if zero_point is None else steps.clamp(-zero_point[:, None], top - zero_point[:, None])
    return ((steps * scale[:, None] - rows) ** 2).mean(1)


def mean_square_scale(rows: Tensor, bits: int, candidates: int = 100) -> Tensor:
    """Return, for each row of `(rows, n)`, the symmetric scale of least mean square error among `candidates` clipping points.

    The points are even shares, up to 1, of the largest magnitude (a grid search for the minimum of eq. 2 of R. Banner et al.,
    "Post Training 4-bit Quantization of Convolutional Networks for Rapid-Deployment", NeurIPS 2019, with the measured error in place
    of a model of it).
    """
    largest = rows.abs().amax(1)
    best = symmetric_scale(largest, bits)
    error = quantization_error(rows, best, bits)
    for share in _shares(candidates):
        scale = symmetric_scale(largest * share, bits)
        candidate = quantization_error(rows, scale, bits)
        best, error = torch.where(candidate < error, scale, best), torch.minimum(candidate, error)
    return best


def mean_square_grid(rows: Tensor, bits: int, candidates: int = 50) -> tuple[Tensor, Tensor]:
    """Return, for each row of `(rows, n)`, scale and zero point of unsigned codes of least mean square error.

    The range is tried at `candidates` even shares, up to 1, of the extremes: of both at once, then of the highest alone, then of the
    lowest (a search for the minimum of eq. 15 of M. Nagel et al., "A White Paper on Neural Network Quantization", arXiv:2106.08295).
    """
    lowest, highest = rows.amin(1), rows.amax(1)
    low, high, error = lowest, highest, _range_error(rows, lowest, highest, bits)
    for sides in (("low", "high"), ("high",), ("low",)):
        for share in _shares(candidates):
            lower, upper = lowest * share if "low" in sides else low, highest * share if "high" in sides else high
            candidate = _range_error(rows, lower, upper, bits)
            low, high = torch.where(candidate < error, lower, low), torch.where(candidate < error, upper, high)
            error = torch.minimum(candidate, error)
    return asymmetric_grid(low, high, bits)


def _range_error(rows: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    scale, zero_point = asymmetric_grid(low, high, bits)
    return quantization_error(rows, scale, bits, zero_point)


def _shares(candidates: int) -> Tensor:
    return torch.arange(1, candidates + 1) / candidates
