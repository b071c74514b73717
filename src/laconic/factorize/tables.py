"""Tables of embeddings: a narrower table and a linear layer, by the words that occur.

A word that calibration inputs have often counts more; one that they do not have counts as if it had been seen once.
"""

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from laconic.factorize.kinds import Kind, Option, Stage, Subject
from laconic.numeric.decomposition import Spectrum, variational_rank

_RANKS = 24  # that are looked at


@dataclass(frozen=True)
class Table(Subject):
    """A table of embeddings, (words, length): `weight` is the table, and `moments` how often each word is read, (words,)."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole table: a word is looked up."""
        return 0

    def fits(self, kind: Kind) -> bool:
        """Say whether a way is one for a table."""
        return kind == "svd"

    def limit(self, kind: Kind) -> int:
        """Return the length of an embedding."""
        return min(self.weight.shape)

    def counted(self, words: Tensor) -> "Table":
        """Return the table with how often its words are read, each once more than in `words`."""
        return replace(self, moments=1.0 + torch.bincount(words.flatten().cpu(), minlength=len(self.weight)).double(), found={})

    def options(self, kind: Kind, ranks: list[int] | None, generator: torch.Generator) -> list[Option]:
        """Return narrower tables with their costs and errors."""
        if not self.fits(kind):
            return []
        words, length = self.weight.shape
        most = (words * length - 1) // (words + length)
        chosen = sorted({round(each) for each in torch.linspace(1, most, min(most, _RANKS)).tolist()}) if ranks is None else ranks
        errors = self._spectrum().errors
        whole = float(errors[0]) or 1.0
        places = prod(self.outputs)
        return [
            Option("svd", (rank,), float(errors[rank]) / whole, rank * (words + length), rank * length * places)
            for rank in chosen
            if rank <= self.limit(kind)
        ]

    def variational(self, kind: Kind) -> list[int]:
        """Return the rank that variational Bayes finds in the table."""
        return [max(1, variational_rank(self.weight))]

    def stages(self, option: Option, generator: torch.Generator) -> list[Stage]:
        """Return the narrower table, and the linear layer behind it."""
        directions = self._spectrum().left[:, : option.ranks[-1]]
        return [Stage("down", self.weight @ directions, operation="embedding"), Stage("up", directions, operation="linear")]

    def product(self, made: list[Stage]) -> Tensor:
        """Return the table that both make."""
        return made[0].weight.double() @ made[1].weight.double().T

    def _spectrum(self) -> Spectrum:
        """Return the principal directions of the words that are read, found once."""
        if "table" not in self.found:
            often = torch.ones(len(self.weight), dtype=torch.float64) if self.moments is None else self.moments
            squares, directions = torch.linalg.eigh(self.weight.T @ (often[:, None] * self.weight))
            self.found["table"] = Spectrum(directions.flip(1), squares.flip(0).clamp_min(0).sqrt(), directions.flip(1).T)
        return self.found["table"]
