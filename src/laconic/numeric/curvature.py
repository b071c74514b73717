"""Changing a layer's weights by the curvature of its output error: what one loses, those still to be changed make up for.

Source: E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, algorithm 1: column by column through the Cholesky factor of the inverse Hessian, updates gathered in blocks. Its
Hessian is that of the squared error of the outputs, the second moments of the inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from laconic.numeric.elimination import damped

_BLOCK = 128  # columns whose effect on later ones is applied at once

Settle: TypeAlias = Callable[[Tensor, int], Tensor]
"""Gives the final column, (groups, out), for what has become of it and its position."""


@dataclass(frozen=True)
class Block:
    """Columns that are to be settled next."""

    left: Tensor  # (groups, out, columns): what has become of them
    pivots: Tensor  # (groups, columns): changing an entry by d costs (d / pivot)^2 when all later columns make up for it
    positions: Tensor  # (columns,) in the weight


def compensated(weight: Tensor, moments: Tensor, rounded: Settle, damping: float = 0.01) -> Tensor:
    """Return a weight whose every column was rounded, the later ones adjusted for what the earlier lost.

    Columns go by falling diagonal of the moments, as in the authors' code.

    Args:
        weight: (groups, out, in); a group of outputs has inputs of its own.
        moments: (groups, in, in): second moments of the inputs.
        rounded: gives the rounded column.
        damping: added to the diagonal of the moments, as a share of its mean.
    """
    order = moments.diagonal(dim1=1, dim2=2).mean(0).argsort(descending=True, stable=True)
    return settled(weight, moments, order, lambda _: rounded, damping, _BLOCK)


def settled(weight: Tensor, moments: Tensor, order: Tensor, chosen: Callable[[Block], Settle], damping: float, block: int) -> Tensor:
    """Return a weight whose columns were settled in `order`, the later ones adjusted for what the earlier lost.

    Args:
        weight: (groups, out, in).
        moments: (groups, in, in).
        order: (in,) positions of the columns.
        chosen: called before each block of columns; gives what settles each of them.
        damping: added to the diagonal of the moments, as a share of its mean.
        block: so many columns are one block.
    """
    left, result = weight[:, :, order].float(), torch.empty_like(weight, dtype=torch.float32)
    factor = _factor(moments[:, order][:, :, order], damping).to(left)
    pivots = factor.diagonal(dim1=1, dim2=2)
    for start in range(0, len(order), block):
        end = min(start + block, len(order))
        settle = chosen(Block(left[:, :, start:end], pivots[:, start:end], order[start:end]))
        errors = torch.zeros_like(left[:, :, start:end])
        for at in range(start, end):
            position = int(order[at])
            result[:, :, position] = settle(left[:, :, at], position)
            errors[:, :, at - start] = (left[:, :, at] - result[:, :, position]) / factor[:, at, at, None]
            left[:, :, at + 1 : end] -= errors[:, :, at - start, None] * factor[:, None, at, at + 1 : end]
        left[:, :, end:] -= errors @ factor[:, start:end, end:]
    return result


def _factor(moments: Tensor, damping: float) -> Tensor:
    """Return the upper triangular factors U of the inverses, `U.T @ U`, (groups, in, in)."""
    inverse = torch.linalg.inv(torch.stack([damped(each.double(), damping) for each in moments]))
    upper: Tensor = torch.linalg.cholesky((inverse + inverse.mT) / 2, upper=True)
    return upper
