"""What steps share that prune weights and train: settings, the loss, and masks that are chosen by a score of each entry."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from laconic.context import Context
from laconic.errors import LaconicError
from laconic.program import Mask, Program, Weight, read, represent, weights
from laconic.program.represent import seen_by
from laconic.prune.allocation import count_of
from laconic.prune.magnitude import check_not_emptied, check_zeroes_more, lowest_of_all, smallest, smallest_of_all
from laconic.prune.selection import lowest
from laconic.recover import taught
from laconic.step import Patterns, step_name
from laconic.train import AfterBatch, Fitted, Training


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class SparseTraining(Training):
    """How many weights are zero in the end, of which layers, and what the others learn from."""

    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.8  # share of weights that are zero in the end
    scope: Literal["layer", "global"] = "layer"  # the share of each layer, or of all together (needs layers of comparable scale)
    temperature: Annotated[float, Field(gt=0)] = 4.0  # of the answers of the network as it came
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9  # weight of these answers; the labels have 1 - alpha
    include: Patterns = ()  # name patterns of layers to prune; empty: all
    exclude: Patterns = ()  # name patterns of layers to leave alone, e.g. ("classifier*",)
    trains: ClassVar[bool] = True
    forms: ClassVar[frozenset[str]] = frozenset({"sparse"})

    def choose(self, program: Program) -> list[Weight]:
        """Return the weights to prune.

        Raises:
            LaconicError: as many are zero already, or a layer would be left without a weight.
        """
        chosen = weights(program, self.include, self.exclude)
        values = [weight.value for weight in chosen]
        marked = smallest_of_all(values, self.sparsity) if self.scope == "global" else [smallest(value, self.sparsity) for value in values]
        check_zeroes_more(step_name(self), chosen, marked)
        check_not_emptied(chosen, marked)
        return chosen

    def learn(self, program: Program, context: Context, label: str, after_batch: AfterBatch | None = None) -> Fitted:
        """Train in place on labels and the answers of the teacher, where there is one."""
        fitted = context.fit(program, self, taught(context, self.temperature, self.alpha), label, after_batch)
        context.note(f"{label}: {fitted.epochs} epochs" + (f", validation score {fitted.score:.4f}" if fitted.score is not None else ""))
        return fitted


def cubic(share: float, sparsity: float, initial: float = 0.0) -> float:
    """Return the sparsity at a share of the way from `initial` to `sparsity`: fast at first, then ever slower.

    M. Zhu, S. Gupta, arXiv:1710.01878, equation 1: `s_t = s_f + (s_i - s_f) (1 - share)^3`.

    >>> [round(cubic(share, 0.8), 3) for share in (0.0, 0.5, 1.0)]
    [0.0, 0.7, 0.8]
    """
    return sparsity + (initial - sparsity) * (1 - share) ** 3


def open_masks(program: Program, chosen: list[Weight], form: type[Mask] = Mask) -> dict[str, Mask]:
    """Register on every weight a mask that holds nothing yet; return them by the weight's name."""
    masks = {weight.name: form(torch.ones_like(weight.value, dtype=torch.bool)) for weight in chosen}
    for name, mask in masks.items():
        represent(program, name, mask)
    return masks


@torch.no_grad()
def magnitudes(program: Program, masks: dict[str, Mask]) -> list[Tensor]:
    """Return the absolute value of every entry before its mask: 0 where an earlier mask holds it."""
    return [seen_by(program, name, mask).abs() for name, mask in masks.items()]


@torch.no_grad()
def close_lowest(masks: dict[str, Mask], scores: list[Tensor], sparsity: float, scope: str) -> None:
    """Let every mask hold the entries with the lowest scores, and no others.

    Raises:
        LaconicError: a layer is left without a weight.
    """
    marked = (
        lowest_of_all(scores, sparsity) if scope == "global" else [lowest(score, count_of(score.numel(), sparsity)) for score in scores]
    )
    for (name, mask), zeroed in zip(masks.items(), marked, strict=True):
        if zeroed.all():
            raise LaconicError(
                f"at a sparsity of {sparsity:.1%} no weight is left in {name}; lower the sparsity, exclude this layer, or give scope: layer"
            )
        mask.keep.copy_(~zeroed)


def note_sparsity(program: Program, names: list[str], context: Context) -> None:
    """Write the share of zeros of every weight into the journal, and of all together."""
    values = {name: read(program, name).detach() for name in names}
    for name, value in values.items():
        context.note(f"{name}: {(value == 0).float().mean():.1%} of {value.numel()} weights are zero")
    zeros, entries = sum(int((value == 0).sum()) for value in values.values()), sum(value.numel() for value in values.values())
    context.note(f"together: {zeros / entries:.2%} of {entries} weights are zero")
