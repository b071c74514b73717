"""Movement pruning: while the network is fine-tuned, weights that training moves towards zero are held there.

Source: V. Sanh, T. Wolf, A. M. Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", NeurIPS 2020, section 4 (the hard version):
the score of a weight is the sum over batches of minus gradient times weight, the gradient being that of the masked weight, which reaches
the score straight through the mask; the weights with the highest scores stay; the share grows by a cubic. There scores are parameters
with an optimizer and a learning rate of their own; here they are the plain sum, as the section has it for plain descent.
"""

from functools import partial

import torch
from torch import Tensor

from laconic.context import Context
from laconic.program import Mask, Program
from laconic.program.represent import replace_form
from laconic.prune.growing import Growing, GrowingSparsity
from laconic.prune.sparse_training import magnitudes, note_sparsity, open_masks
from laconic.step import step


class ScoredMask(Mask):
    """A mask that adds up, batch by batch, how far training moves every entry away from zero, held ones too."""

    score: Tensor

    def __init__(self, keep: Tensor) -> None:
        """Take a boolean tensor of the weight's shape."""
        super().__init__(keep)
        self.register_buffer("score", torch.zeros(keep.shape))

    def forward(self, dense: Tensor) -> Tensor:
        """Return `dense` with zeros where the mask is False; when its gradient comes in training, it is added to the score."""
        view = super().forward(dense)
        if self.training and view.requires_grad:
            view.register_hook(partial(self._add, dense.detach().clone()))
        return view

    def _add(self, dense: Tensor, gradient: Tensor) -> None:
        self.score.sub_(gradient * dense)


@step
class Movement(GrowingSparsity):
    """Zero the weights that fine-tuning moves towards zero, little by little, and hold them at zero.

    Smaller (bytes in packed storage), not faster. For networks trained on another task than that of the data, at high sparsity.
    """

    def __call__(self, program: Program, context: Context) -> Program:
        """Train in place."""
        masks = open_masks(program, self.choose(program), ScoredMask)
        self.learn(program, context, "movement pruning", Growing(self, masks, partial(movements, program, masks)))
        for name, mask in masks.items():
            replace_form(program, name, mask, Mask(mask.keep))
        note_sparsity(program, list(masks), context)
        return program


def movements(program: Program, masks: dict[str, Mask]) -> list[Tensor]:
    """Return the scores; the lowest of all where an entry is zero already, before the mask."""
    scores = [mask.get_buffer("score") for mask in masks.values()]
    return [score.masked_fill(size == 0, -torch.inf) for score, size in zip(scores, magnitudes(program, masks), strict=True)]
