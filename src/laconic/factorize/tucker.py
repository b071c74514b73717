"""Three layers in place of a convolution: fewer input channels, a smaller kernel, back to all output channels.

Source: Y.-D. Kim, E. Park, S. Yoo, T. Choi, L. Yang, D. Shin, "Compression of Deep Convolutional Neural Networks for Fast and Low Power
Mobile Applications", ICLR 2016. By the weights alone the bases are those of HOOI; by the outputs the inputs' base is that of their moments,
and kernel and outputs' base are fitted behind it.
"""

from math import prod

import torch
from torch import Tensor

from laconic.context import Context
from laconic.factorize.factorized import Factorized, factorize
from laconic.factorize.ways import Option, Stage, Subject, Way
from laconic.numeric.decomposition import reduced, regressed, ridged, spectrum, tucker
from laconic.program import Program
from laconic.step import step

_SHARES = (0.5, 0.75, 1.0, 1.5)  # of the inputs' rank, that of the outputs


class TwoBases(Way):
    """Pointwise to few channels, the kernel between few channels, pointwise back; ranks are of outputs and inputs."""

    name = "tucker"

    def fits(self, subject: Subject) -> bool:
        """Say whether the kernel has more than one position."""
        return not subject.is_table and prod(subject.kernel) > 1

    def limit(self, subject: Subject) -> int:
        """Return the larger of both ranks' limits."""
        return max(subject.channels)

    def ranks(self, subject: Subject, rank: int) -> tuple[int, ...]:
        """Return the rank for outputs and inputs, as far as there are so many."""
        return min(rank, subject.channels[0]), min(rank, subject.channels[1])

    def parts(self, subject: Subject, ranks: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return the entries of each weight, and its positions."""
        (out, inputs), places = subject.channels, prod(subject.outputs)
        return [(ranks[1] * inputs, subject.inputs), (ranks[0] * ranks[1] * prod(subject.kernel), places), (out * ranks[0], places)]

    def folded(self, subject: Subject) -> Tensor:
        """Return the weight as (out * positions, in)."""
        return subject.blocks.flatten(2).permute(0, 2, 1).flatten(0, 1)

    def folded_moments(self, subject: Subject) -> Tensor | None:
        """Return the moments of the input channels, the mean over the positions of the kernel."""
        if subject.moments is None:
            return None
        inputs, positions = subject.channels[1], prod(subject.kernel)
        return subject.moments.reshape(inputs, positions, inputs, positions).diagonal(dim1=1, dim2=3).mean(-1)

    def first(self, subject: Subject, ranks: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, list[Stage]]:
        """Return the inputs' base, at every position of the kernel."""
        if subject.moments is None:
            down = tucker(subject.blocks.flatten(2), (ranks[0], ranks[1]))[2].T
        else:
            down = self.spectrum(subject).factors(ranks[1])[1]
        spread = torch.einsum("ri,pq->rpiq", down, torch.eye(prod(subject.kernel), dtype=torch.float64))
        return spread.flatten(2).flatten(0, 1), [Stage("down", subject.pointwise(down))]

    def last(self, subject: Subject, matrix: Tensor, first: Tensor, ranks: tuple[int, ...]) -> list[Stage]:
        """Return the kernel and the outputs' base."""
        left, core = spectrum(matrix, ridged(reduced(subject.metric, first))).factors(ranks[0])
        return [Stage("core", core.reshape(len(core), ranks[1], *subject.kernel), "whole"), Stage("up", subject.pointwise(left))]

    def product(self, made: list[Stage]) -> Tensor:
        """Return the weight that all three make."""
        down, core, up = (each.weight.double() for each in made)
        return torch.einsum("os,srp,ri->oip", up.flatten(1), core.flatten(2), down.flatten(1)).flatten(1)

    def with_rank(self, subject: Subject, rank: int, exact: bool, generator: torch.Generator) -> list[Option]:
        """Return options of several ranks of the outputs: behind one inputs' base the error of all is known."""
        ranks = self.ranks(subject, rank)
        first, _ = self.first(subject, ranks, generator)
        matrix, behind = regressed(subject.weight, subject.metric, first), reduced(subject.metric, first)
        whole, kept = (float(((each @ metric) * each).sum()) for each, metric in ((subject.weight, subject.metric), (matrix, behind)))
        tails = spectrum(matrix, ridged(behind)).errors
        outs = [ranks[0]] if exact else sorted({min(max(1, round(rank * share)), subject.channels[0]) for share in _SHARES})
        lost = [max(whole - kept, 0.0) + float(tails[min(out, len(tails) - 1)]) for out in outs]
        return [self.option(subject, (out, ranks[1]), each / whole if whole > 0 else 0.0) for out, each in zip(outs, lost, strict=True)]


@step
class Tucker(Factorized):
    """Take convolutions apart by Tucker-2; linear and pointwise layers are left whole.

    Smaller; faster where the runtime's profile shows it, for three operations take the place of one.
    """

    def __call__(self, program: Program, context: Context) -> Program:
        """Take apart in place."""
        return factorize(program, self, (TwoBases(),), context)
