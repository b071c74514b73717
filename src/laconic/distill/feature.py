"""Feature distillation: the student learns what its teacher holds inside, at places that both have, beside outputs and labels.

Source: F. Tung, G. Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, for the default; those of the other ways of comparing
values are in `distill.features`. `review` learns, from deep to shallow, to make each of the teacher's maps from the student's map there and
all deeper ones: P. Chen, S. Liu, H. Zhao, J. Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021, section 3.3 (the attention-based
fusion). What is learned for the comparison alone is left behind.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn import functional as F

from laconic.distill.features import as_image, attention_transfer, channel_wise, hint, pyramid, similarity
from laconic.distill.taught import Pair, Taught, places
from laconic.errors import LaconicError
from laconic.program import Program
from laconic.step import step
from laconic.train.detection import foreground

Method: TypeAlias = Literal["hint", "attention", "similarity", "review", "channels"]

_WEIGHTS: dict[str, float] = {"hint": 1.0, "attention": 1000.0, "similarity": 3000.0, "review": 1.0, "channels": 1.0}
"""Of the comparison beside the outputs', where none is given: of the same order on networks of the CIFAR kind."""

Names: TypeAlias = Annotated[
    tuple[tuple[str, str], ...], BeforeValidator(lambda value: tuple(value.items()) if isinstance(value, dict) else value)
]


@step
class Feature(Taught):
    """Train the network on values inside its teacher, on the teacher's outputs and on the labels."""

    loss: Method = "similarity"  # FitNets' hints, attention transfer, similarity-preserving, ReviewKD, or channel-wise (CWD)
    weight: Annotated[float, Field(gt=0)] | None = None  # of the comparison inside; None: the usual one of `loss`
    layers: Names = ()  # the student's layer: the teacher's; none: matched by the graphs

    def pairs(self, program: Program, teacher: Program) -> list[Pair]:
        """Return the places whose values are compared."""
        found = places(program, teacher, self.layers)
        if self.loss != "similarity":  # of values without positions there is no map
            maps = [pair for pair in found if pair[0].positions or self.loss == "hint"]
            if not maps:
                raise LaconicError(f"distill.Feature: {self.loss} compares values at positions; matched are {_listed(found)}")
            found = maps
        wrong = [pair for pair in found if pair[0].positions != pair[1].positions]
        if wrong and self.loss != "similarity":
            raise LaconicError(f"distill.Feature: {self.loss} compares values at the same positions; these differ: {_listed(wrong)}")
        if self.loss == "review" and any(len(ours.positions) != 2 for ours, _ in found):
            raise LaconicError(f"distill.Feature: review compares maps of rows and columns; matched are {_listed(found)}")
        return found

    def comparison(self, pairs: Sequence[Pair]) -> nn.Module:
        """Return what compares the values."""
        weight = _WEIGHTS[self.loss] if self.weight is None else self.weight
        if self.loss in ("hint", "channels"):
            return Adapted(pairs, weight, self.temperature if self.loss == "channels" else None)
        if self.loss == "review":
            return Review(pairs, weight)
        return Plain(attention_transfer if self.loss == "attention" else similarity, weight)

    @property
    def about(self) -> str:
        """What is learned, in words."""
        return f"values inside the teacher, compared by {self.loss}, and its outputs at temperature {self.temperature:g}"


def _listed(pairs: Sequence[Pair]) -> str:
    return "; ".join(f"{ours} with {theirs}" for ours, theirs in pairs)


class Plain(nn.Module):
    """Compares features without learning anything."""

    def __init__(self, lost: Any, weight: float) -> None:
        super().__init__()
        self.lost, self.weight = lost, weight

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor], _: Tensor) -> Tensor:
        """Return the mean of what is lost at all places, times the weight."""
        each = [self.lost(one, other) for one, other in zip(ours, theirs, strict=True)]
        return self.weight * torch.stack(each).mean()


class Adapted(nn.Module):
    """Compares features behind a learned 1x1 convolution, which gives the student's the teacher's channels.

    Where there are boxes, hints are compared in them alone.
    """

    def __init__(self, pairs: Sequence[Pair], weight: float, temperature: float | None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.adapters = nn.ModuleList(nn.Conv1d(ours.channels, theirs.channels, 1) for ours, theirs in pairs)
        self.weight, self.temperature, self.maps = weight, temperature, [ours.positions for ours, _ in pairs]

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return the mean of what is lost at all places, times the weight."""
        adapted = [adapt(one) for adapt, one in zip(self.adapters, ours, strict=True)]
        if self.temperature is not None:
            each = [channel_wise(one, other, self.temperature) for one, other in zip(adapted, theirs, strict=True)]
        else:
            each = [
                hint(one, other, foreground(labels, *size).flatten(1) if labels.is_floating_point() and len(size) == 2 else None)
                for one, other, size in zip(adapted, theirs, self.maps, strict=True)
            ]
        return self.weight * torch.stack(each).mean()


class Review(nn.Module):
    """Compares each of the teacher's maps with one that is made of the student's there and of what was made for the deeper ones."""

    def __init__(self, pairs: Sequence[Pair], weight: float) -> None:
        super().__init__()
        middle = max(theirs.channels for _, theirs in pairs)
        self.heights = [ours.positions[0] for ours, _ in pairs]
        self.weight = weight
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            narrow = [nn.Sequential(nn.Conv2d(ours.channels, middle, 1, bias=False), nn.BatchNorm2d(middle)) for ours, _ in pairs]
            made = [nn.Sequential(nn.Conv2d(middle, theirs.channels, 3, padding=1, bias=False), nn.BatchNorm2d(theirs.channels))
                    for _, theirs in pairs]  # fmt: skip
            shares = [nn.Conv2d(2 * middle, 2, 1) for _ in pairs[1:]]
        self.narrow, self.made, self.shares = nn.ModuleList(narrow), nn.ModuleList(made), nn.ModuleList(shares)

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor], _: Tensor) -> Tensor:
        """Return the sum of what is lost at all places, times the weight."""
        lost, deeper = list[Tensor](), None
        for place in reversed(range(len(ours))):
            here = self.narrow[place](as_image(ours[place], self.heights[place]))
            if deeper is not None:
                above = F.interpolate(deeper, here.shape[-2:])
                shares = self.shares[place](torch.cat([here, above], 1)).sigmoid()
                here = here * shares[:, :1] + above * shares[:, 1:]
            deeper = here
            lost.append(pyramid(self.made[place](here), as_image(theirs[place], self.heights[place])))
        return self.weight * torch.stack(lost).sum()
