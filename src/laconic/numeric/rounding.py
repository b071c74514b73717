"""Rounding to a grid: codes, scales and how a range is chosen. Tensors in, tensors out."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def levels(bits: int, signed: bool) -> tuple[int, int]:
    """Return the lowest and highest code of a width.

    >>> levels(8, signed=True), levels(4, signed=False)
    ((-128, 127), (0, 15))
    """
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def broadcast(values: Tensor, like: Tensor, axis: int | None) -> Tensor:
    """Shape `values` (a scalar, or one per channel) so that it multiplies `like` along `axis`."""
    if axis is None or values.ndim == 0:
        return values
    shape = [1] * like.ndim
    shape[axis] = -1
    return values.reshape(shape)


def round_through(x: Tensor) -> Tensor:
    """Round to the nearest whole number (ties to even); the gradient passes unchanged."""
    return x + (torch.round(x) - x).detach()


def per_channel(tensor: Tensor, axis: int | None) -> Tensor:
    """Return the entries as rows, one row per channel along `axis`; one row in all for None."""
    return tensor.reshape(1, -1) if axis is None else tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


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


def quantization_error(rows: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Return the mean square error of each row of `(channels, n)` under symmetric rounding with `scale` of shape `(channels,)`."""
    top = levels(bits, signed=True)[1]
    codes = torch.clamp(torch.round(rows / scale[:, None]), -top, top)
    return ((codes * scale[:, None] - rows) ** 2).mean(1)


def mean_square_scale(rows: Tensor, bits: int, candidates: int = 80) -> Tensor:
    """Return, for each row of `(channels, n)`, the symmetric scale of least mean square error among `candidates` clipping points.

    The points are even shares, from 0.2 to 1, of the largest magnitude (a grid search for the minimum of eq. 2 of R. Banner et
    al., "Post Training 4-bit Quantization of Convolutional Networks for Rapid-Deployment", NeurIPS 2019, with the measured error
    in place of a model of it).
    """
    best = symmetric_scale(rows.abs().amax(1), bits)
    error = quantization_error(rows, best, bits)
    for share in torch.linspace(0.2, 1.0, candidates)[:-1]:
        scale = symmetric_scale(rows.abs().amax(1) * share, bits)
        candidate = quantization_error(rows, scale, bits)
        best, error = torch.where(candidate < error, scale, best), torch.minimum(candidate, error)
    return best


def pack_bits(codes: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    """Write non-negative codes one after the other at `bits` bits each, high bit first; the last byte is filled with zeros.

    >>> pack_bits(np.array([1, 2, 3], dtype=np.uint16), 4).tolist()
    [18, 48]
    """
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint16)
    return np.packbits(((codes[:, None] >> shifts) & 1).astype(np.uint8).ravel())


def unpack_bits(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.int64]:
    """Read `count` codes of `bits` bits each; the inverse of `pack_bits`."""
    table = np.unpackbits(packed, count=count * bits).reshape(count, bits).astype(np.int64)
    return table @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))
