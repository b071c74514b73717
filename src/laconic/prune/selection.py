"""Which entries of a weight go: those of the lowest scores, of all together, row by row, or in every few neighbours."""

import torch
from torch import Tensor


def lowest(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` entries of the lowest scores; among equals the first goes.

    >>> lowest(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), 2).tolist()
    [[False, True], [True, False]]
    """
    marked = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    marked[scores.flatten().argsort(stable=True)[:count]] = True
    return marked.reshape(scores.shape)


def lowest_of_rows(scores: Tensor, held: Tensor, count: int) -> Tensor:
    """Mark `count` entries, as evenly over the rows as can be: in each row those of the lowest scores.

    Args:
        scores: (rows, columns).
        held: of the same shape, True where entries are marked already; they count. More of them than `count` stay marked.
        count: how many in all. Where rows do not come out even, the lowest scores decide which get one more.
    """
    rank = scores.masked_fill(held, -torch.inf).argsort(dim=1, stable=True).argsort(1)
    ranked = scores.flatten().argsort(stable=True)
    order = ranked[rank.flatten()[ranked].argsort(stable=True)]  # by rank in the row, then by score
    free = order[~held.flatten()[order]]
    marked = held.flatten().clone()
    marked[free[: max(0, count - int(held.sum()))]] = True
    return marked.reshape(scores.shape)


def lowest_in_groups(scores: Tensor, held: Tensor, kept: int) -> Tensor:
    """Mark all but the `kept` highest scores of the last axis; what is held is marked already, and counts.

    >>> lowest_in_groups(torch.tensor([[4.0, 1.0, 2.0, 3.0]]), torch.tensor([[True, False, False, False]]), 2).tolist()
    [[True, True, False, False]]
    """
    rank = scores.masked_fill(held, -torch.inf).argsort(dim=-1, stable=True).argsort(-1)
    return held | (rank < scores.shape[-1] - kept)
