"""Relation distillation: the student learns how examples stand to each other in its teacher, beside outputs and labels.

Source: W. Park, D. Kim, Y. Lu, M. Cho, "Relational Knowledge Distillation", CVPR 2019, for the default, distances and angles; or who is
told from whom across both networks (CRD, see `distill.relations`), with learned projections that are left behind. Compared are the last
values before the output.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from laconic.distill.relations import angles, contrast, distances
from laconic.distill.taught import Pair, Taught
from laconic.errors import NotApplicableError
from laconic.program import Program
from laconic.program.taps import taps
from laconic.step import step

_DISTANCES, _ANGLES = 1.0, 2.0  # Park et al., section 4.2 (25 and 50 there)
_WEIGHTS = {"distances": 25.0, "contrast": 0.8}


@step
class Relation(Taught):
    """Train the network on how examples stand to each other in its teacher, on the teacher's outputs and on the labels."""

    loss: Literal["distances", "contrast"] = "distances"  # RKD's distances and angles, or CRD's contrast of examples
    weight: Annotated[float, Field(gt=0)] | None = None  # of the comparison; None: the usual one of `loss`
    length: Annotated[int, Field(ge=1)] = 128  # contrast: of the projected embeddings
    sharpness: Annotated[float, Field(gt=0)] = 0.1  # contrast: what cosines are divided by

    def pairs(self, program: Program, teacher: Program) -> list[Pair]:
        """Return the last places of both networks."""
        ours, theirs = taps(program), taps(teacher)
        if not ours or not theirs:
            raise NotApplicableError("distill.Relation compares the last values before the output, and a network has none behind a layer")
        return [(ours[-1], theirs[-1])]

    def comparison(self, pairs: Sequence[Pair]) -> nn.Module:
        """Return what compares the embeddings."""
        weight = _WEIGHTS[self.loss] if self.weight is None else self.weight
        return Contrast(pairs[0], self.length, self.sharpness, weight) if self.loss == "contrast" else Distances(weight)

    @property
    def about(self) -> str:
        """What is learned, in words."""
        return f"how examples stand to each other in the teacher, by {self.loss}, and its outputs at temperature {self.temperature:g}"


class Distances(nn.Module):
    """Compares distances and angles; it learns nothing."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor], _: Tensor) -> Tensor:
        """Return what is lost, times the weight."""
        one, other = ours[0].flatten(1), theirs[0].flatten(1)
        return self.weight * (_DISTANCES * distances(one, other) + _ANGLES * angles(one, other))


class Contrast(nn.Module):
    """Compares embeddings behind a learned projection of each network's."""

    def __init__(self, pair: Pair, length: int, sharpness: float, weight: float) -> None:
        super().__init__()
        self.sharpness, self.weight = sharpness, weight
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.projections = nn.ModuleList(nn.Linear(tap.channels, length) for tap in pair)

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor], _: Tensor) -> Tensor:
        """Return what is lost, times the weight; of embeddings with positions their mean is taken."""
        projected = [project(each[0].mean(-1)) for project, each in zip(self.projections, (ours, theirs), strict=True)]
        return self.weight * contrast(projected[0], projected[1], self.sharpness)
