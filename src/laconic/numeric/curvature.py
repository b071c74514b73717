"""Rounding a layer's weights by the curvature of its output error: what rounding one loses, those still to be rounded make up for.

Source: E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, algorithm 1: column by column through the Cholesky factor of the inverse Hessian, updates gathered in blocks. Its
Hessian is that of the squared error of the outputs, the second moments of the inputs. Columns go by falling diagonal of it, as in the
authors' code.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from laconic.numeric.elimination import damped

_BLOCK = 128  # columns whose effect on later ones is applied at once


def compensated(weight: Tensor, moments: Tensor, rounded: Callable[[Tensor, int], Tensor], damping: float = 0.01) -> Tensor:
    """Return a weight whose every column was rounded, the later ones adjusted for what the earlier lost.

    Args:
        weight: (groups, out, in); a group of outputs has inputs of its own.
        moments: (groups, in, in): second moments of the inputs.
        rounded: gives the rounded column, (groups, out), for what has become of it and its position.
        damping: added to the diagonal of the moments, as a share of its mean.
    """
    order = moments.diagonal(dim1=1, dim2=2).mean(0).argsort(descending=True, stable=True)
    left, result = weight[:, :, order].float(), torch.empty_like(weight, dtype=torch.float32)
    factor = _factor(moments[:, order][:, :, order], damping).to(left)
    for start in range(0, len(order), _BLOCK):
        end = min(start + _BLOCK, len(order))
        errors = torch.zeros_like(left[:, :, start:end])
        for at in range(start, end):
            position = int(order[at])
            result[:, :, position] = rounded(left[:, :, at], position)
            errors[:, :, at - start] = (left[:, :, at] - result[:, :, position]) / factor[:, at, at, None]
            left[:, :, at + 1 : end] -= errors[:, :, at - start, None] * factor[:, None, at, at + 1 : end]
        left[:, :, end:] -= errors @ factor[:, start:end, end:]
    return result


def _factor(moments: Tensor, damping: float) -> Tensor:
    """Return the upper triangular factors U of the inverses, `U.T @ U`, (groups, in, in)."""
    inverse = torch.linalg.inv(torch.stack([damped(each.double(), damping) for each in moments]))
    upper: Tensor = torch.linalg.cholesky((inverse + inverse.mT) / 2, upper=True)
    return upper
