"""A pointwise layer, one kernel to each channel and a pointwise layer in place of a convolution.

Source: V. Lebedev, Y. Ganin, M. Rakhuba, I. Oseledets, V. Lempitsky, "Speeding-up Convolutional Neural Networks Using Fine-tuned
CP-Decomposition", ICLR 2015; with one kernel of both axes, and that it stays trainable: A.-H. Phan et al., ECCV 2020, cited in
`numeric.decomposition`.
"""

from math import prod

import torch
from torch import Tensor

from laconic.context import Context
from laconic.factorize.factorized import Factorized, factorize
from laconic.factorize.ways import Stage, Subject, Way
from laconic.numeric.decomposition import cp
from laconic.program import Program
from laconic.step import step


class Depthwise(Way):
    """Pointwise, one kernel to each channel, pointwise."""

    name = "cp"
    looked_at = 5  # the factors of each must be fitted

    def fits(self, subject: Subject) -> bool:
        """Say whether the kernel has more than one position."""
        return not subject.is_table and prod(subject.kernel) > 1

    def limit(self, subject: Subject) -> int:
        """Return a rank that is enough for every kernel of that shape."""
        sizes = (*subject.channels, prod(subject.kernel))
        return prod(sizes) // max(sizes)

    def parts(self, subject: Subject, ranks: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return the entries of each weight, and its positions."""
        (out, inputs), places = subject.channels, prod(subject.outputs)
        return [(ranks[0] * inputs, subject.inputs), (ranks[0] * prod(subject.kernel), places), (out * ranks[0], places)]

    def first(self, subject: Subject, ranks: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, list[Stage]]:
        """Return the factors of inputs and positions."""
        _, inputs, positions = cp(subject.blocks.flatten(2), ranks[0], generator)
        core = positions.T.reshape(ranks[0], 1, *subject.kernel)
        stages = [Stage("down", subject.pointwise(inputs.T)), Stage("core", core, "whole", groups=ranks[0])]
        return torch.einsum("ir,pr->rip", inputs, positions).flatten(1), stages

    def product(self, made: list[Stage]) -> Tensor:
        """Return the weight that all three make."""
        down, core, up = (each.weight.double().flatten(1) for each in made)
        return torch.einsum("or,rp,ri->oip", up, core, down).flatten(1)


@step
class CP(Factorized):
    """Take convolutions apart by CP; linear and pointwise layers are left whole.

    Smallest of all at a rank; kernels of one channel each move much memory for what they multiply.
    """

    def __call__(self, program: Program, context: Context) -> Program:
        """Take apart in place."""
        return factorize(program, self, (Depthwise(),), context)
