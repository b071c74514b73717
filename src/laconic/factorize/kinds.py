"""The ways in which a layer is taken apart: what each costs and loses at every rank, and the layers that it becomes.

All begin with a first map of the inputs, `T`, and end with the map that, behind it, gives outputs nearest to the whole layer's; where a way
has a core, that map is itself cut to a rank. A weight is a matrix `(out, in * positions)` here, as `Layer.rows` reads it.

`svd`      a layer like the whole one to `rank` channels, and a pointwise one (X. Zhang, J. Zou, K. He, J. Sun, TPAMI 2016).
`spatial`  a column of the kernel, then a row (M. Jaderberg, A. Vedaldi, A. Zisserman, "Speeding up Convolutional Neural Networks with Low
           Rank Expansions", BMVC 2014, scheme 2).
`tucker`   pointwise, a smaller kernel, pointwise (Y.-D. Kim et al., ICLR 2016).
`cp`       pointwise, one kernel to each channel, pointwise (V. Lebedev et al., ICLR 2015; with one kernel of both axes: A.-H. Phan et al.,
           ECCV 2020).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from laconic.numeric.decomposition import Spectrum, cp, output_error, reduced, regressed, ridged, spectrum, variational_rank
from laconic.program.layers import Layer

Kind: TypeAlias = Literal["svd", "spatial", "tucker", "cp"]

_RANKS = 16  # of a kind that are looked at
_CP_RANKS = 5  # whose factors must be fitted one by one
_PLACES = 128  # of an example that moments are taken at, or little more
_MULTIPLE = 4  # of ranks: what vector units are filled by


@dataclass(frozen=True)
class Stage:
    """One of the layers that a layer becomes."""

    name: str
    weight: Tensor  # as a convolution or linear layer has it
    along: Literal["whole", "columns", "rows", "point"] = "point"  # which of the layer's strides, paddings and dilations it has
    groups: int = 1
    operation: Literal["layer", "embedding", "linear"] = "layer"  # layer: the same as the layer's


@dataclass(frozen=True)
class Option:
    """A way to take a layer apart, with its ranks."""

    kind: Kind
    ranks: tuple[int, ...]
    error: float  # squared error of the outputs, as a share of their squares, the layers before being whole
    parameters: int
    macs: int  # of an example

    def __str__(self) -> str:
        return f"{self.kind} {'x'.join(map(str, self.ranks))}"


@dataclass(frozen=True)
class Subject:
    """A layer with what is known of it."""

    layer: Layer
    weight: Tensor  # (out, in * positions), float64
    moments: Tensor | None  # of its inputs, (in * positions,) * 2; None: the weights alone count
    inputs: int  # positions of the input of an example, and
    outputs: tuple[int, ...]  # sizes of the output's positions
    columns: int  # positions of the input in a column's place: rows of the output, columns of the input
    doubt: float = 0.0  # how far moments that few examples gave are to be drawn to their diagonal, 0 to 1
    found: dict[str, Spectrum] = field(default_factory=dict)

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the kernel; () of a linear layer."""
        return self.layer.shape[2:]

    @property
    def channels(self) -> tuple[int, int]:
        """Output and input channels."""
        return self.layer.shape[0], self.layer.shape[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole layer for an example."""
        return self.weight.numel() * prod(self.outputs)

    def options(self, kind: Kind, ranks: list[int] | None, generator: torch.Generator) -> list[Option]:
        """Return ways of one kind with their costs and errors; where no ranks are given, those of fewer parameters than the whole.

        Args:
            kind: the way.
            ranks: to look at; None: up to where it costs as much as the whole layer, evenly.
            generator: of what begins at random.
        """
        return _options(self, kind, ranks, generator)

    def variational(self, kind: Kind) -> list[int]:
        """Return the rank that variational Bayes finds in the weights, as a list of one."""
        return _variational(self, kind)

    def stages(self, option: Option, generator: torch.Generator) -> list[Stage]:
        """Return the layers that it becomes, in order; the last has its bias."""
        return _stages(self, option, generator)

    def product(self, made: list[Stage]) -> Tensor:
        """Return the weight that stages make together, in the shape of `weight`."""
        return _product(made)

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

    def fits(self, kind: Kind) -> bool:
        """Say whether a way is one for this layer."""
        if kind == "svd":
            return True
        if kind == "spatial":
            return len(self.kernel) == 2 and min(self.kernel) > 1
        return prod(self.kernel) > 1

    def limit(self, kind: Kind) -> int:
        """Return the largest rank that has a meaning; of Tucker's two the larger."""
        out, inputs = self.channels
        if kind == "spatial":
            return min(out * self.kernel[1], inputs * self.kernel[0])
        if kind == "cp":
            return out * inputs * prod(self.kernel) // max(out, inputs, prod(self.kernel))
        return min(out, self.weight.shape[1]) if kind == "svd" else max(out, inputs)


# spectra ----------------------------------------------------------------------------------------------------


def _blocks(subject: Subject) -> Tensor:
    """Return the weight with its axes: (out, in, rows, columns), or fewer."""
    return subject.weight.reshape(subject.layer.shape)


def _spectrum(subject: Subject, kind: str) -> Spectrum:
    """Return what tells the first map of a way, of all ranks; found once."""
    if kind not in subject.found:
        matrix, metric = subject.weight, subject.moments
        if kind == "spatial":
            matrix, metric = _folded_columns(subject), _column_moments(subject)
        elif kind == "tucker":
            matrix, metric = _folded_channels(subject), _channel_moments(subject)
        subject.found[kind] = spectrum(matrix, metric)
    return subject.found[kind]


def _folded_columns(subject: Subject) -> Tensor:
    """Return the weight as (out * columns, in * rows)."""
    return _blocks(subject).permute(0, 3, 1, 2).flatten(0, 1).flatten(1)


def _column_moments(subject: Subject) -> Tensor | None:
    """Return the moments of a column of the kernel's inputs, the mean over the places of the column."""
    if subject.moments is None:
        return None
    (_, inputs), (rows, columns) = subject.channels, subject.kernel
    each = subject.moments.reshape(inputs, rows, columns, inputs, rows, columns)
    return each.diagonal(dim1=2, dim2=5).mean(-1).reshape(inputs * rows, inputs * rows)


def _folded_channels(subject: Subject) -> Tensor:
    """Return the weight as (out * positions, in)."""
    return _blocks(subject).flatten(2).permute(0, 2, 1).flatten(0, 1)


def _channel_moments(subject: Subject) -> Tensor | None:
    """Return the moments of the input channels, the mean over the positions of the kernel."""
    if subject.moments is None:
        return None
    inputs, positions = subject.channels[1], prod(subject.kernel)
    each = subject.moments.reshape(inputs, positions, inputs, positions)
    return each.diagonal(dim1=1, dim2=3).mean(-1)


# first maps ----------------------------------------------------------------------------------------------------


def _first(subject: Subject, kind: Kind, ranks: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, list[Stage]]:
    """Return the first map, (features, in * positions), and the stages that compute it."""
    (_, inputs), rank = subject.channels, ranks[-1]
    if kind == "svd":
        right = _spectrum(subject, kind).factors(rank)[1]
        return right, [Stage("down", right.reshape(rank, *subject.layer.shape[1:]), "whole")]
    if kind == "spatial":
        rows, columns = subject.kernel
        down = _spectrum(subject, kind).factors(rank)[1].reshape(rank, inputs, rows)
        spread = torch.einsum("rik,cd->rcikd", down, torch.eye(columns, dtype=torch.float64))
        return spread.reshape(rank * columns, -1), [Stage("down", down[..., None], "columns")]
    positions = prod(subject.kernel)
    if kind == "tucker":
        down = _spectrum(subject, kind).factors(rank)[1]
        spread = torch.einsum("ri,pq->rpiq", down, torch.eye(positions, dtype=torch.float64))
        return spread.reshape(rank * positions, -1), [Stage("down", _pointwise(down, subject))]
    _, of_inputs, of_positions = cp(_blocks(subject).flatten(2), rank, generator)
    core = of_positions.T.reshape(rank, 1, *subject.kernel)
    spread = torch.einsum("ir,pr->rip", of_inputs, of_positions).flatten(1)
    return spread, [Stage("down", _pointwise(of_inputs.T, subject)), Stage("core", core, "whole", groups=rank)]


def _pointwise(matrix: Tensor, subject: Subject) -> Tensor:
    """Return a matrix as the weight of a pointwise layer."""
    return matrix.reshape(*matrix.shape, *[1] * subject.layer.spatial)


def _stages(subject: Subject, option: Option, generator: torch.Generator) -> list[Stage]:
    first, found = _first(subject, option.kind, option.ranks, generator)
    last = regressed(subject.weight, subject.metric, first)
    if option.kind == "svd" and subject.moments is None:
        last = _spectrum(subject, "svd").factors(option.ranks[-1])[0]
    if option.kind == "spatial":
        rows_first = last.reshape(len(last), option.ranks[-1], 1, subject.kernel[1])
        return [*found, Stage("up", rows_first, "rows")]
    if option.kind == "tucker":
        left, core = spectrum(last, ridged(reduced(subject.metric, first))).factors(option.ranks[0])
        shape = (option.ranks[0], option.ranks[1], *subject.kernel)
        return [*found, Stage("core", core.reshape(shape), "whole"), Stage("up", _pointwise(left, subject))]
    return [*found, Stage("up", _pointwise(last, subject))]


def _product(made: list[Stage]) -> Tensor:
    names = {each.name: each.weight.double() for each in made}
    down, up = names["down"], names["up"]
    if "core" in names:
        core = names["core"]
        if made[1].groups > 1:
            return torch.einsum("or,rp,ri->oip", up.flatten(1), core.flatten(1), down.flatten(1)).flatten(1)
        return torch.einsum("os,srp,ri->oip", up.flatten(1), core.flatten(2), down.flatten(1)).flatten(1)
    if made[1].along == "rows":
        return torch.einsum("orb,ria->oiab", up[:, :, 0], down[..., 0]).flatten(1)
    return up.flatten(1) @ down.flatten(1)


# options ----------------------------------------------------------------------------------------------------


def _options(subject: Subject, kind: Kind, ranks: list[int] | None, generator: torch.Generator) -> list[Option]:
    if not subject.fits(kind):
        return []
    chosen = _grid(subject, kind) if ranks is None else ranks
    found = [each for rank in chosen for each in _with_rank(subject, kind, rank, ranks is not None, generator)]
    return [each for each in found if ranks is not None or each.parameters < subject.weight.numel()]


def _variational(subject: Subject, kind: Kind) -> list[int]:
    folded: dict[str, Callable[[Subject], Tensor]] = {"spatial": _folded_columns, "tucker": _folded_channels}
    matrix = folded[kind](subject) if kind in folded else subject.weight
    return [max(1, min(variational_rank(matrix), subject.limit(kind)))]


def _grid(subject: Subject, kind: Kind) -> list[int]:
    """Return ranks below where the way has as many parameters as the whole layer, in multiples of 4 where there are many."""
    every = range(1, subject.limit(kind) + 1)
    worth = [rank for rank in every if _cost(subject, kind, _pair(subject, kind, rank, rank))[0] < subject.weight.numel()]
    many = [rank for rank in worth if rank % _MULTIPLE == 0] or worth
    count = _CP_RANKS if kind == "cp" else _RANKS
    return sorted({many[round(place)] for place in torch.linspace(0, len(many) - 1, min(count, len(many))).tolist()}) if many else []


def _pair(subject: Subject, kind: Kind, out: int, inputs: int) -> tuple[int, ...]:
    """Return a way's ranks: of outputs and inputs for Tucker, else one."""
    return (min(out, subject.channels[0]), min(inputs, subject.channels[1])) if kind == "tucker" else (inputs,)


def _with_rank(subject: Subject, kind: Kind, rank: int, given: bool, generator: torch.Generator) -> list[Option]:
    whole = float(((subject.weight @ subject.metric) * subject.weight).sum())
    if kind == "svd":
        lost = float(_spectrum(subject, kind).errors[rank])
        return [_option(subject, kind, (rank,), lost / whole if whole > 0 else 0.0)]
    if kind != "tucker":
        made = _stages(subject, _option(subject, kind, (rank,), 0.0), generator)
        return [_option(subject, kind, (rank,), output_error(subject.weight, _product(made), subject.moments))]
    ranks = _pair(subject, kind, rank, rank)
    first, _ = _first(subject, kind, ranks, generator)
    last = regressed(subject.weight, subject.metric, first)
    behind = reduced(subject.metric, first)
    apart = whole - float(((last @ behind) * last).sum())
    tails = spectrum(last, ridged(behind)).errors
    outs = [ranks[0]] if given else sorted({_pair(subject, kind, max(1, round(rank * share)), rank)[0] for share in (0.5, 0.75, 1.0, 1.5)})
    shares = [(max(apart, 0.0) + float(tails[min(out, len(tails) - 1)])) / whole if whole > 0 else 0.0 for out in outs]
    return [_option(subject, kind, (out, ranks[1]), share) for out, share in zip(outs, shares, strict=True)]


def _option(subject: Subject, kind: Kind, ranks: tuple[int, ...], error: float) -> Option:
    return Option(kind, ranks, error, *_cost(subject, kind, ranks))


def _cost(subject: Subject, kind: Kind, ranks: tuple[int, ...]) -> tuple[int, int]:
    """Return parameters and multiply-accumulates, without the bias."""
    (out, inputs), positions, after, rank = subject.channels, prod(subject.kernel), prod(subject.outputs), ranks[-1]
    if kind == "svd":
        parts = [(rank * inputs * positions, after), (out * rank, after)]
    elif kind == "spatial":
        rows, columns = subject.kernel
        parts = [(rank * inputs * rows, subject.columns), (out * rank * columns, after)]
    elif kind == "tucker":
        parts = [(rank * inputs, subject.inputs), (ranks[0] * rank * positions, after), (out * ranks[0], after)]
    else:
        parts = [(rank * inputs, subject.inputs), (rank * positions, after), (out * rank, after)]
    return sum(size for size, _ in parts), sum(size * places for size, places in parts)
