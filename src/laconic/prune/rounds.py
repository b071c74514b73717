"""Iterative magnitude pruning: prune a little, train what is left, and again.

Source: S. Han, J. Pool, J. Tran, W. Dally, "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015: rounds
(section 3.4), weights that go on from where they are at a lower learning rate (section 3.3), an L2 pull (section 3.1, here
`weight_decay`) and dropout that falls with the connections (section 3.2). There a round has a threshold; here it has a sparsity, as in
J. Frankle, M. Carbin, "The Lottery Ticket Hypothesis", ICLR 2019 (geometric), or M. Zhu, S. Gupta, arXiv:1710.01878, eq. 1 (cubic).
Training every round at the learning rate and schedule of the first training is learning-rate rewinding: A. Renda, J. Frankle, M. Carbin,
"Comparing Rewinding and Fine-tuning in Neural Network Pruning", ICLR 2020, section 2.
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from laconic.context import Context
from laconic.program import Mask, Program
from laconic.prune.dropout import connections, rescaled_dropout
from laconic.prune.sparse_training import SparseTraining, close_lowest, cubic, magnitudes, note_sparsity, open_masks
from laconic.step import step


@step
class Rounds(SparseTraining):
    """Zero the smallest weights in rounds, with training after each, and hold them at zero.

    Smaller (bytes in packed storage), not faster. A weight that has gone stays away.
    """

    rounds: Annotated[int, Field(ge=1)] = 4
    spacing: Literal["geometric", "cubic"] = "geometric"  # geometric: every round takes the same share of what is left
    rescale_dropout: bool = True  # in training, by the root of the share of connections that are left
    epochs: Annotated[int, Field(ge=1)] = 3  # of each round
    learning_rate: Annotated[float, Field(gt=0)] = 0.003  # of each round; that of the first training gives learning-rate rewinding

    def __call__(self, program: Program, context: Context) -> Program:
        """Prune and train in place."""
        chosen, original = self.choose(program), connections(program)
        masks = open_masks(program, chosen)
        for number in range(1, self.rounds + 1):
            sparsity = sparsity_after(number, self.rounds, self.sparsity, self.spacing)
            close_lowest(masks, _kept_magnitudes(program, masks), sparsity, self.scope)
            folder = None if context.folder is None else context.folder / f"round-{number}"
            with rescaled_dropout(program, original, self.rescale_dropout) as rates:
                for rate in rates:
                    context.note(rate)
                self.learn(program, replace(context, folder=folder), f"round {number} of {self.rounds}, sparsity {sparsity:.1%}")
        note_sparsity(program, list(masks), context)
        return program


def sparsity_after(number: int, rounds: int, sparsity: float, spacing: str) -> float:
    """Return the sparsity of a round, counted from 1, on the way to that of the last.

    >>> [round(sparsity_after(number, 3, 0.875, "geometric"), 6) for number in (1, 2, 3)]
    [0.5, 0.75, 0.875]
    """
    share = number / rounds
    return cubic(share, sparsity) if spacing == "cubic" else 1 - (1 - sparsity) ** share


def _kept_magnitudes(program: Program, masks: dict[str, Mask]) -> list[Tensor]:
    """Return the absolute value of every entry that is kept, and -1 of one that has gone, so that it stays away."""
    gone = torch.tensor(-1.0)
    return [torch.where(mask.keep, score, gone.to(score)) for mask, score in zip(masks.values(), magnitudes(program, masks), strict=True)]
