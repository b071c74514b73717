"""Low rank that is learned: while the network trains, its layers are drawn ever more strongly to the ranks that were chosen for them.

Source: Y. Idelbayev, M. Carreira-Perpinan, "Low-rank Compression of Neural Nets: Learning the Rank of Each Layer", CVPR 2020, section 4:
a penalty mu/2 |W - W_r|^2 on the distance to the nearest weight of low rank, with mu growing geometrically. The nuclear norm during
training is that of Y. Xu et al., "TRP: Trained Rank Pruning for Efficient Deep Neural Networks", IJCAI 2020, section 3.2; its proximal step
is J.-F. Cai, E. Candes, Z. Shen, "A Singular Value Thresholding Algorithm for Matrix Completion", SIAM J. Optimization 20, 2010, theorem
2.1. There ranks come from the weights; here they are shared out before, and distances are those of outputs.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from laconic.context import Context
from laconic.factorize.channels import Channels, Matrix
from laconic.factorize.factorized import Factorized, choose, take_apart
from laconic.factorize.plan import Choice
from laconic.factorize.replace import base_name
from laconic.factorize.svd import Spatial
from laconic.factorize.ways import Subject
from laconic.numeric.decomposition import Whitening
from laconic.program import Program, read
from laconic.program.cut import KeptChannels
from laconic.recover import check_trainable, retrain
from laconic.step import step
from laconic.train import Ramp, Training

_WAYS: dict[str, Matrix] = {"svd": Channels(), "spatial": Spatial()}
_WEAKEST = 1e-3  # share of the way to low rank that weights are drawn by at first


@step
class Gradual(Ramp, Factorized):
    """Draw layers to low rank while the network trains, and then take them apart.

    Smaller; faster as `factorize.SVD` is. Costs as much time as training the whole network does; whether it keeps more than training
    afterwards has to be tried.
    """

    kinds: Annotated[tuple[Literal["svd", "spatial"], ...], Field(min_length=1)] = ("svd", "spatial")  # ways to choose from
    pull: Literal["rank", "nuclear"] = "rank"  # to the nearest weight of the rank; or all singular values fall, till enough are zero
    pulled: Training = Training()  # under the pull; `training` comes when layers are apart

    @property
    def trains(self) -> bool:
        """Whether training data are needed: always."""
        return True

    def __call__(self, program: Program, context: Context) -> Program:
        """Train and take apart in place."""
        check_trainable(context, self.pulled)
        choice = choose(program, self, [_WAYS[kind] for kind in self.kinds], context)
        retrain(program, self.pulled, context, "training towards low rank", Towards(self, program, choice))
        now = tuple(_with_weight(subject, read(program, subject.layer.weight)) for subject in choice.subjects)
        take_apart(program, replace(choice, subjects=now), self, context)
        retrain(program, self.training, context, "training")
        return program


class Towards:
    """Called after every batch of training: draws weights to low rank. All state is in the weights."""

    def __init__(self, settings: Gradual, program: Program, choice: Choice) -> None:
        """Take the program that trains, and how its layers will be taken apart."""
        self.settings = settings
        self.plan = repr(settings)  # so that a checkpoint of another plan is not gone on with
        self._program, self._choice = program, choice
        self._whitenings = [Whitening.of(way.folded_moments(subject)) for subject, way, _ in self._each()]

    @torch.no_grad()
    def __call__(self, done: int, total: int) -> KeptChannels | None:
        """Draw weights nearer where it is time; until the end the network is not yet the one asked for."""
        share = 1.0 if done == total else self.settings.share(done, total)
        if share is not None:
            for whitening, (subject, way, rank) in zip(self._whitenings, self._each(), strict=True):
                weight = read(self._program, subject.layer.weight)
                now = _with_weight(subject, weight)
                matrix = lowered(way.folded(now), rank, pull(share), self.settings.pull, whitening)
                weight.copy_(way.unfolded(now, matrix).reshape(weight.shape))
        return {} if done < self.settings.last(total) else None

    def _each(self) -> Iterator[tuple[Subject, Matrix, int]]:
        for subject in self._choice.subjects:
            option = self._choice.picked[base_name(subject.layer)]
            assert isinstance(option.way, Matrix), "no other is offered"
            yield subject, option.way, option.ranks[0]


def pull(share: float) -> float:
    """Return by what share of the distance weights are drawn, at a share of the way: a penalty that grows geometrically, to 1.

    >>> [round(pull(share), 3) for share in (0.0, 0.5, 1.0)]
    [0.001, 0.032, 1.0]
    """
    return float(_WEAKEST ** (1 - share))


def lowered(matrix: Tensor, rank: int, strength: float, how: Literal["rank", "nuclear"], whitening: Whitening) -> Tensor:
    """Return a matrix drawn to a rank, (out, in), float64.

    Args:
        matrix: (out, in).
        rank: that all singular values beyond are to vanish for.
        strength: 0: nothing changes; 1: the matrix has the rank.
        how: "rank": values beyond it fall by `strength` of themselves; "nuclear": all fall by that share of the first one beyond it, none
            below zero, which is the proximal step of the nuclear norm at that weight.
        whitening: coordinates whose singular values these are.
    """
    found = whitening.spectrum(matrix)
    values = found.values.clone()
    if rank >= len(values):
        return matrix.double()
    if how == "nuclear":
        return found.matrix((values - strength * values[rank]).clamp_min(0))
    values[rank:] *= 1 - strength
    return found.matrix(values)


def _with_weight(subject: Subject, weight: Tensor) -> Subject:
    """Return a layer as it is now."""
    return replace(subject, weight=weight.detach().cpu().double().flatten(1), found={})
