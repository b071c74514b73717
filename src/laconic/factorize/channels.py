"""Ways whose parts make a matrix of low rank, and the plainest: to few channels and back.

Source: X. Zhang, J. Zou, K. He, J. Sun, "Accelerating Very Deep Convolutional Networks for Classification and Detection", TPAMI 2016; the
whitening is cited in `numeric.decomposition`.
"""

from math import prod

import torch
from torch import Tensor

from laconic.factorize.ways import Option, Stage, Subject, Way


class Matrix(Way):
    """A way whose parts make a matrix of their rank, and all such: truncating its spectrum is the projection onto them."""

    def unfolded(self, subject: Subject, matrix: Tensor) -> Tensor:
        """Return what `folded` was made of."""
        return matrix


class Channels(Matrix):
    """A layer like the whole one to few channels, and a pointwise one (X. Zhang, J. Zou, K. He, J. Sun, TPAMI 2016)."""

    name = "svd"

    def fits(self, subject: Subject) -> bool:
        """Say whether it is one for this layer."""
        return not (subject.is_table or subject.is_recurrent)

    def limit(self, subject: Subject) -> int:
        """Return the rank of a matrix of that shape."""
        return min(subject.weight.shape)

    def parts(self, subject: Subject, ranks: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return the entries of each weight, and its positions."""
        places = prod(subject.outputs)
        return [(ranks[0] * subject.weight.shape[1], places), (subject.channels[0] * ranks[0], places)]

    def first(self, subject: Subject, ranks: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, list[Stage]]:
        """Return the leading directions of the inputs."""
        right = self.spectrum(subject).factors(ranks[0])[1]
        return right, [Stage("down", right.reshape(-1, *subject.layer.shape[1:]), "whole")]

    def product(self, made: list[Stage]) -> Tensor:
        """Return the weight that both make."""
        return made[1].weight.double().flatten(1) @ made[0].weight.double().flatten(1)

    def with_rank(self, subject: Subject, rank: int, exact: bool, generator: torch.Generator) -> list[Option]:
        """Return the option of a rank: its error is known without making it."""
        errors = self.spectrum(subject).errors
        return [self.option(subject, (rank,), float(errors[rank] / errors[0]) if errors[0] > 0 else 0.0)]
