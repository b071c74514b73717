"""Gradual magnitude pruning: while the network trains, ever more of its smallest weights are held at zero.

Source: M. Zhu, S. Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", arXiv:1710.01878,
equation 1. As there, gradients pass through the mask: a held weight gets none and keeps its value, and comes back where that is
no longer among the smallest. With `straight_through` it goes on learning, as in Y. Guo, A. Yao, Y. Chen, "Dynamic Network Surgery for
Efficient DNNs", NeurIPS 2016, equation 3, and so comes back where the network wants it.
"""

from functools import partial

from torch import Tensor

from laconic.context import Context
from laconic.numeric.rounding import through
from laconic.program import Mask, Program
from laconic.program.represent import replace_form
from laconic.prune.growing import Growing, GrowingSparsity
from laconic.prune.sparse_training import magnitudes, note_sparsity, open_masks
from laconic.step import step


class LearningMask(Mask):
    """A mask whose held entries get the gradient that they would get if they were not held."""

    def forward(self, dense: Tensor) -> Tensor:
        """Return `dense` with zeros where the mask is False; its gradient is that of the result."""
        return through(super().forward(dense), dense)


@step
class Gradual(GrowingSparsity):
    """Zero the smallest weights little by little while the network trains, and hold them at zero.

    Smaller (bytes in packed storage), not faster. Keeps more accuracy than `prune.Magnitude` with training afterwards.
    """

    straight_through: bool = False  # weights held at zero go on learning; else they keep their value until they come back

    def __call__(self, program: Program, context: Context) -> Program:
        """Train in place."""
        masks = open_masks(program, self.choose(program), LearningMask if self.straight_through else Mask)
        self.learn(program, context, "pruning while training", Growing(self, masks, partial(magnitudes, program, masks)))
        for name, mask in masks.items():
            replace_form(program, name, mask, Mask(mask.keep))
        note_sparsity(program, list(masks), context)
        return program
