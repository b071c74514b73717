"""SparseGPT: prune each layer in one shot, and let the weights that stay make up for those that go.

Source: E. Frantar, D. Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", ICML 2023, algorithm 1: masks
are chosen block by block of columns, by the error of B. Hassibi, D. Stork, "Second Order Derivatives for Network Pruning: Optimal Brain
Surgeon", NeurIPS 1992, eq. 5, with only later columns free to adjust, so that all rows share one inverse Hessian. Ours shrinks the
moments of few examples, and aims at the outputs of the whole network (see `program.sequential`).
"""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from laconic.numeric.curvature import Block, Settle, settled
from laconic.program.sequential import Turn
from laconic.prune.calibrated import Calibrated, Pruned, along_inputs
from laconic.prune.selection import lowest, lowest_in_groups
from laconic.step import step


def pruned_by_count(weight: Tensor, moments: Tensor, held: Tensor, count: int, block: int, damping: float) -> Pruned:
    """Set `count` entries of a layer's weight to zero, and adjust the others.

    Every block of columns loses its share of what is to go.

    Args:
        weight: (groups, out, in).
        moments: (groups, in, in): second moments of the inputs.
        held: of the shape of `weight`, True where entries are zero already; they count.
        count: how many zeros there are in the end, unless more are held.
        block: columns whose mask is chosen together.
        damping: added to the diagonal of the moments, as a share of its mean.
    """
    zeroed, free = held.clone(), int((~held).sum())
    missing, passed = max(0, count - int(held.sum())), 0

    def chosen(part: Block) -> Settle:
        nonlocal passed
        before, closed = missing * passed // max(1, free), held[:, :, part.positions]
        passed += int((~closed).sum())
        goes = lowest(_costs(part).masked_fill(closed, torch.inf), missing * passed // max(1, free) - before)
        zeroed[:, :, part.positions] |= goes
        return _zero_where(zeroed)

    order = torch.arange(weight.shape[2], device=weight.device)
    return Pruned(settled(weight, moments, order, chosen, damping, block), zeroed)


def pruned_by_pattern(weight: Tensor, moments: Tensor, held: Tensor, order: Tensor, pattern: tuple[int, int], damping: float) -> Pruned:
    """Keep `pattern[0]` of every `pattern[1]` columns that follow each other in `order`, row by row, and adjust what stays."""
    kept, of = pattern
    zeroed = held.clone()

    def chosen(part: Block) -> Settle:
        zeroed[:, :, part.positions] = lowest_in_groups(_costs(part), held[:, :, part.positions], kept)
        return _zero_where(zeroed)

    return Pruned(settled(weight, moments, order, chosen, damping, of), zeroed)


def _costs(part: Block) -> Tensor:
    """Return by how much the squared error of the outputs grows when an entry goes, (groups, out, columns)."""
    return (part.left / part.pivots[:, None]).square()


def _zero_where(zeroed: Tensor) -> Settle:
    return lambda column, position: column.masked_fill(zeroed[:, :, position], 0)


@step
class SparseGPT(Calibrated):
    """Zero the weights whose loss the others make up for best, adjust these, and hold the zeros: on calibration inputs, without training.

    Smaller (bytes in packed storage), not faster: mainstream runtimes multiply by zeros as by any number.
    """

    block: Annotated[int, Field(ge=1)] = 128  # inputs whose mask is chosen together, before the others adjust; not of patterns
    damping: Annotated[float, Field(gt=0)] = 0.01  # added to the diagonal of the inputs' moments, as a share of its mean

    moves = True

    def _pruner(self, turn: Turn, held: Tensor) -> Callable[[int], Pruned]:
        weight, moments = turn.aim()
        if self.pattern is not None:
            by_pattern = pruned_by_pattern(weight, moments, held, along_inputs(turn.layer), self.pattern, self.damping)
            return lambda count: by_pattern
        return lambda count: pruned_by_count(weight, moments, held, count, self.block, self.damping)
