"""Two layers in place of one, by the singular values of its weight as its outputs see them.

Source: E. Denton, W. Zaremba, J. Bruna, Y. LeCun, R. Fergus, "Exploiting Linear Structure Within Convolutional Networks for Efficient
Evaluation", NeurIPS 2014; the whitening is cited in `numeric.decomposition`, the two ways for convolutions where they are.
"""

from math import prod
from typing import Literal

import torch
from torch import Tensor

from laconic.context import Context
from laconic.factorize.channels import Channels, Matrix
from laconic.factorize.factorized import Factorized, factorize
from laconic.factorize.recurrent import Inflow
from laconic.factorize.tables import Narrower
from laconic.factorize.ways import Stage, Subject
from laconic.program import Program
from laconic.step import step


class Spatial(Matrix):
    """A column of the kernel, then a row.

    Source: M. Jaderberg, A. Vedaldi, A. Zisserman, "Speeding up Convolutional Neural Networks with Low Rank Expansions", BMVC 2014,
    scheme 2.
    """

    name = "spatial"

    def fits(self, subject: Subject) -> bool:
        """Say whether the kernel has columns and rows."""
        return not subject.is_table and len(subject.kernel) == 2 and min(subject.kernel) > 1

    def limit(self, subject: Subject) -> int:
        """Return the rank of the weight with columns on one side and rows on the other."""
        (out, inputs), (rows, columns) = subject.channels, subject.kernel
        return min(out * columns, inputs * rows)

    def parts(self, subject: Subject, ranks: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return the entries of each weight, and its positions."""
        (out, inputs), (rows, columns) = subject.channels, subject.kernel
        return [(ranks[0] * inputs * rows, subject.columns), (out * ranks[0] * columns, prod(subject.outputs))]

    def folded(self, subject: Subject) -> Tensor:
        """Return the weight as (out * columns, in * rows)."""
        return subject.blocks.permute(0, 3, 1, 2).flatten(0, 1).flatten(1)

    def unfolded(self, subject: Subject, matrix: Tensor) -> Tensor:
        """Return the weight of (out * columns, in * rows)."""
        (out, inputs), (rows, columns) = subject.channels, subject.kernel
        return matrix.reshape(out, columns, inputs, rows).permute(0, 2, 3, 1).flatten(1)

    def folded_moments(self, subject: Subject) -> Tensor | None:
        """Return the moments of a column of the kernel's inputs, the mean over the places of the column."""
        if subject.moments is None:
            return None
        inputs, (rows, columns) = subject.channels[1], subject.kernel
        each = subject.moments.reshape(inputs, rows, columns, inputs, rows, columns)
        return each.diagonal(dim1=2, dim2=5).mean(-1).reshape(inputs * rows, inputs * rows)

    def first(self, subject: Subject, ranks: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, list[Stage]]:
        """Return the columns, at every place that the row behind them reads."""
        inputs, (rows, columns) = subject.channels[1], subject.kernel
        down = self.spectrum(subject).factors(ranks[0])[1].reshape(-1, inputs, rows)
        spread = torch.einsum("rik,cd->rcikd", down, torch.eye(columns, dtype=torch.float64))
        return spread.flatten(2).flatten(0, 1), [Stage("down", down[..., None], "columns")]

    def last(self, subject: Subject, matrix: Tensor, first: Tensor, ranks: tuple[int, ...]) -> list[Stage]:
        """Return the row."""
        return [Stage("up", matrix.reshape(len(matrix), ranks[0], 1, subject.kernel[1]), "rows")]

    def product(self, made: list[Stage]) -> Tensor:
        """Return the weight that both make."""
        down, up = (each.weight.double() for each in made)
        return torch.einsum("orb,ria->oiab", up[:, :, 0], down[..., 0]).flatten(1)


@step
class SVD(Factorized):
    """Take linear layers, convolutions and embeddings apart into two of low rank.

    Smaller; linear layers faster, convolutions where the runtime's profile shows it. `split: spatial` is for kernels of 3 x 3 and more.
    """

    split: Literal["channels", "spatial"] = "channels"  # convolutions: to few channels and back; or a column, then a row of the kernel

    def __call__(self, program: Program, context: Context) -> Program:
        """Take apart in place."""
        return factorize(program, self, (Channels(), Narrower(), Inflow()) if self.split == "channels" else (Spatial(),), context)
