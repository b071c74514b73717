"""Tables of embeddings: a narrower table and a linear layer, by the words that occur.

Of all tables of that width it keeps most of what is read: C. Eckart, G. Young, "The approximation of one matrix by another of lower rank",
Psychometrika 1, 1936. A word that calibration inputs have often counts more; one that they do not have counts as if it had been seen once.
"""

from math import prod

import torch
from torch import Tensor

from laconic.factorize.ways import Option, Stage, Subject, Way
from laconic.numeric.decomposition import Spectrum


def read_often(words: Tensor, count: int) -> Tensor:
    """Return how often each of `count` words is read, once more than in `words`, (count,), float64."""
    return 1.0 + torch.bincount(words.flatten().cpu(), minlength=count).double()


class Narrower(Way):
    """A narrower table, and a linear layer to the whole length."""

    name = "svd"
    looked_at = 24

    def fits(self, subject: Subject) -> bool:
        """Say whether it is a table."""
        return subject.is_table

    def limit(self, subject: Subject) -> int:
        """Return the length of an embedding, or the number of words."""
        return min(subject.weight.shape)

    def parts(self, subject: Subject, ranks: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return the entries of both, of which only the linear layer multiplies."""
        words, length = subject.weight.shape
        return [(words * ranks[0], 0), (length * ranks[0], prod(subject.outputs))]

    def spectrum(self, subject: Subject) -> Spectrum:
        """Return the principal directions of the words that are read, found once."""
        if self.name not in subject.found:
            table = subject.weight
            often = torch.ones(len(table), dtype=torch.float64) if subject.moments is None else subject.moments
            squares, directions = torch.linalg.eigh(table.T @ (often[:, None] * table))
            subject.found[self.name] = Spectrum(directions.flip(1), squares.flip(0).clamp_min(0).sqrt(), directions.flip(1).T)
        return subject.found[self.name]

    def first(self, subject: Subject, ranks: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, list[Stage]]:
        """Return the leading directions, and the table along them."""
        directions = self.spectrum(subject).left[:, : ranks[0]]
        return directions.T, [Stage("down", subject.weight @ directions)]

    def stages(self, subject: Subject, ranks: tuple[int, ...], generator: torch.Generator) -> list[Stage]:
        """Return the narrower table, and the linear layer: directions are orthonormal, so nothing is left to fit behind them."""
        directions, found = self.first(subject, ranks, generator)
        return [*found, Stage("up", directions.T, operation="linear")]

    def product(self, made: list[Stage]) -> Tensor:
        """Return the table that both make."""
        return made[0].weight.double() @ made[1].weight.double().T

    def with_rank(self, subject: Subject, rank: int, exact: bool, generator: torch.Generator) -> list[Option]:
        """Return the option of a rank."""
        errors = self.spectrum(subject).errors
        return [self.option(subject, (rank,), float(errors[rank] / errors[0]) if errors[0] > 0 else 0.0)]
