"""What a way to take a layer apart is: what it costs and loses at every rank, and the layers that it makes.

A weight is a matrix `(out, in * positions)` here, as `Layer.rows` reads it. A way begins with a first map of the inputs, `T`; what follows
is the map that, behind it, gives outputs nearest to the whole layer's, or parts of that.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import prod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from laconic.numeric.decomposition import Spectrum, output_error, regressed, spectrum, variational_rank
from laconic.program.layers import Layer
from laconic.program.select import RECURRENT

_PLACES = 128  # of an example that moments are taken at, or little more
_MULTIPLE = 4  # of ranks: what vector units are filled by


@dataclass(frozen=True)
class Stage:
    """One of the layers that a layer becomes."""

    name: str
    weight: Tensor  # as a convolution, linear layer or embedding has it
    along: Literal["whole", "columns", "rows", "point"] = "point"  # which of the layer's strides, paddings and dilations it has
    groups: int = 1
    operation: Literal["layer", "linear"] = "layer"  # layer: the same as the layer's; of a recurrent network this is its weight


@dataclass(frozen=True)
class Subject:
    """A layer with what is known of it."""

    layer: Layer  # of a table of embeddings too, whose weight is (words, length), and of a recurrent network's first map, (gates, in)
    weight: Tensor  # (out, in * positions), float64; of a table (words, length)
    moments: Tensor | None  # of its inputs, (in * positions,) * 2; of a table how often each word is read; None: weights alone count
    inputs: int  # positions of the input of an example, and
    outputs: tuple[int, ...]  # sizes of the output's positions
    columns: int  # positions of the input in a column's place: rows of the output, columns of the input
    doubt: float = 0.0  # how far moments that few examples gave are to be drawn to their diagonal, 0 to 1
    found: dict[str, Spectrum] = field(default_factory=dict)

    @property
    def is_table(self) -> bool:
        """Whether it is a table of embeddings."""
        return self.layer.node.target is torch.ops.aten.embedding.default

    @property
    def is_recurrent(self) -> bool:
        """Whether it is what a recurrent network makes of its input."""
        return self.layer.node.target in RECURRENT

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the kernel; () of a linear layer."""
        return self.layer.shape[2:]

    @property
    def channels(self) -> tuple[int, int]:
        """Output and input channels."""
        return self.layer.shape[0], self.layer.shape[1]

    @property
    def blocks(self) -> Tensor:
        """The weight with its axes: (out, in, rows, columns), or fewer."""
        return self.weight.reshape(self.layer.shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole layer for an example; a word is looked up."""
        return 0 if self.is_table else self.weight.numel() * prod(self.outputs)

    @property
    def metric(self) -> Tensor:
        """The moments, or the identity where only weights count."""
        return torch.eye(self.weight.shape[1], dtype=torch.float64) if self.moments is None else self.moments

    def rows(self, value: Tensor) -> Tensor:
        """Return rows that the weight is multiplied by, (examples * places, in * positions), of some places of every example."""
        every = self.layer.rows(value)
        each = every.reshape(len(value), -1, every.shape[1])
        step = max(1, each.shape[1] // _PLACES) | 1  # odd: of a picture's columns it takes all in turn
        return each[:, ::step].reshape(-1, every.shape[1])

    def pointwise(self, matrix: Tensor) -> Tensor:
        """Return a matrix as the weight of a pointwise layer."""
        return matrix.reshape(*matrix.shape, *[1] * self.layer.spatial)


@dataclass(frozen=True)
class Option:
    """A way to take a layer apart, with its ranks."""

    way: "Way"
    ranks: tuple[int, ...]
    error: float  # squared error of the outputs, as a share of their squares, the layers before being whole
    parameters: int
    macs: int  # of an example

    def __str__(self) -> str:
        return f"{self.way.name} {'x'.join(map(str, self.ranks))}"


class Way(ABC):
    """A way to take a layer apart. A new one is a subclass: what it fits, costs and begins with."""

    name: ClassVar[str]
    looked_at: ClassVar[int] = 16  # ranks

    @abstractmethod
    def fits(self, subject: Subject) -> bool:
        """Say whether it is one for this layer."""

    @abstractmethod
    def limit(self, subject: Subject) -> int:
        """Return the largest rank that has a meaning."""

    @abstractmethod
    def parts(self, subject: Subject, ranks: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return the entries of each stage's weight, and at how many positions of an example each is multiplied."""

    @abstractmethod
    def first(self, subject: Subject, ranks: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, list[Stage]]:
        """Return the first map, (features, in * positions), and the stages that compute it."""

    def last(self, subject: Subject, matrix: Tensor, first: Tensor, ranks: tuple[int, ...]) -> list[Stage]:
        """Return the stages of the map (out, features) that follows the first."""
        return [Stage("up", subject.pointwise(matrix))]

    @abstractmethod
    def product(self, made: list[Stage]) -> Tensor:
        """Return the weight that stages make together, in the shape of the subject's `weight`."""

    def folded(self, subject: Subject) -> Tensor:
        """Return the matrix whose rank is the way's."""
        return subject.weight

    def folded_moments(self, subject: Subject) -> Tensor | None:
        """Return the moments of what that matrix is multiplied by; None: weights alone count."""
        return subject.moments

    def ranks(self, subject: Subject, rank: int) -> tuple[int, ...]:
        """Return all ranks of the way where one is asked for."""
        return (rank,)

    def spectrum(self, subject: Subject) -> Spectrum:
        """Return that matrix in the coordinates of its moments, found once."""
        if self.name not in subject.found:
            subject.found[self.name] = spectrum(self.folded(subject), self.folded_moments(subject))
        return subject.found[self.name]

    def stages(self, subject: Subject, ranks: tuple[int, ...], generator: torch.Generator) -> list[Stage]:
        """Return the layers that a layer becomes, in order; the last has its bias."""
        first, found = self.first(subject, ranks, generator)
        return [*found, *self.last(subject, regressed(subject.weight, subject.metric, first), first, ranks)]

    def with_rank(self, subject: Subject, rank: int, exact: bool, generator: torch.Generator) -> list[Option]:
        """Return the options of a rank.

        Args:
            subject: the layer.
            rank: of the first map.
            exact: whether any other rank is to be this one too.
            generator: of what begins at random.
        """
        ranks = self.ranks(subject, rank)
        made = self.product(self.stages(subject, ranks, generator))
        return [self.option(subject, ranks, output_error(subject.weight, made, subject.moments))]

    def option(self, subject: Subject, ranks: tuple[int, ...], error: float) -> Option:
        """Return an option with its costs, the bias aside."""
        parts = self.parts(subject, ranks)
        return Option(self, ranks, error, sum(size for size, _ in parts), sum(size * places for size, places in parts))

    def options(self, subject: Subject, ranks: list[int] | None, generator: torch.Generator) -> list[Option]:
        """Return options with their costs and errors; where no ranks are given, those of fewer parameters than the whole.

        Args:
            subject: the layer.
            ranks: to look at; None: up to where it costs as much as the whole layer, evenly, in multiples of 4 where there are many.
            generator: of what begins at random.
        """
        if not self.fits(subject):
            return []
        if ranks is not None:
            return [each for rank in ranks for each in self.with_rank(subject, rank, True, generator)]
        whole = subject.weight.numel()
        worth = [rank for rank in range(1, self.limit(subject) + 1) if self._size(subject, rank) < whole]
        many = [rank for rank in worth if rank % _MULTIPLE == 0] or worth
        places = torch.linspace(0, len(many) - 1, min(self.looked_at, len(many))).tolist()
        chosen = {many[round(place)] for place in places}
        found = [each for rank in sorted(chosen) for each in self.with_rank(subject, rank, False, generator)]
        return [each for each in found if each.parameters < whole]

    def variational(self, subject: Subject) -> int:
        """Return the rank that variational Bayes finds in the weights."""
        return max(1, min(variational_rank(self.folded(subject)), self.limit(subject)))

    def _size(self, subject: Subject, rank: int) -> int:
        return sum(size for size, _ in self.parts(subject, self.ranks(subject, rank)))
