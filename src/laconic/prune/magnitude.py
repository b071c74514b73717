"""Magnitude pruning: set the weights with the smallest absolute value to zero.

Source: S. Han, J. Pool, J. Tran, W. Dally, "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, section 3:
the threshold of a layer is a quality parameter times the standard deviation of its weights; weights below it are removed for good.
"""

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from laconic.context import Context
from laconic.errors import LaconicError
from laconic.program import Mask, Program, Weight, represent, weights
from laconic.prune.allocation import Allocation, by_sensitivity, count_of
from laconic.prune.selection import lowest
from laconic.step import Patterns, step


def smallest(weight: Tensor, sparsity: float) -> Tensor:
    """Mark the `sparsity` share of entries that have the smallest magnitude.

    Args:
        weight: any shape.
        sparsity: share to mark, in [0, 1); rounded down to whole entries. Among equals the first goes.

    Returns:
        Boolean tensor of the shape of `weight`, True where the entry is to be zeroed.
    """
    return lowest(weight.abs(), count_of(weight.numel(), sparsity))


def smallest_of_all(tensors: list[Tensor], sparsity: float) -> list[Tensor]:
    """Mark the `sparsity` share of the entries of all tensors together that have the smallest magnitude.

    Returns:
        Boolean tensors of the shapes of `tensors`.
    """
    return lowest_of_all([tensor.abs() for tensor in tensors], sparsity)


def lowest_of_all(scores: list[Tensor], sparsity: float) -> list[Tensor]:
    """Mark the `sparsity` share of the entries of all tensors together that have the lowest scores."""
    together = torch.cat([score.flatten() for score in scores])
    marked = lowest(together, count_of(together.numel(), sparsity))
    parts = marked.split([score.numel() for score in scores])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


def below_deviation(weight: Tensor, quality: float) -> Tensor:
    """Mark the entries with a magnitude below `quality` times the standard deviation of the weight (Han et al. 2015, section 3).

    Returns:
        Boolean tensor of the shape of `weight`.
    """
    return weight.abs() < quality * weight.std(correction=0)


@step
class Magnitude:
    """Zero the smallest weights and hold them at zero.

    Smaller (bytes in packed storage), not faster: mainstream runtimes multiply by zeros as by any number.
    """

    sparsity: Annotated[float, Field(gt=0, lt=1)] | None = None  # share of weights set to zero; 0.5 where `quality` is not given either
    scope: Literal["layer", "global"] = "layer"  # the share of each layer, or of all together (needs layers of comparable scale)
    quality: Annotated[float, Field(gt=0)] | None = None  # in place of sparsity: the threshold in standard deviations of each layer
    allocation: Allocation = "uniform"  # of the sparsity over layers; sensitivity: by the noise that zeros make, on calibration inputs
    include: Patterns = ()  # name patterns of layers to prune; empty: all
    exclude: Patterns = ()  # name patterns of layers to leave alone, e.g. ("classifier*",)

    forms: ClassVar[frozenset[str]] = frozenset({"sparse"})

    @model_validator(mode="after")
    def _one_criterion(self) -> Self:
        if self.quality is not None and (self.sparsity is not None or self.scope == "global"):
            raise ValueError("give either sparsity (with a scope) or quality, which is a threshold of each layer")
        if self.allocation == "sensitivity" and (self.quality is not None or self.scope == "global"):
            raise ValueError("allocation: sensitivity shares a sparsity out to layers: leave quality and scope out")
        return self

    def __call__(self, program: Program, context: Context) -> Program:
        """Register a mask on every chosen weight."""
        chosen = weights(program, self.include, self.exclude)
        marked = self._zeroed(program, chosen, context)
        check_zeroes_more("prune.Magnitude", chosen, marked)
        check_not_emptied(chosen, marked)
        for weight, zeroed in zip(chosen, marked, strict=True):
            represent(program, weight.name, Mask(~zeroed))
            context.note(f"{weight.name}: {zeroed.float().mean():.1%} of {zeroed.numel()} weights are zero")
        return program

    def _zeroed(self, program: Program, chosen: list[Weight], context: Context) -> list[Tensor]:
        values = [weight.value for weight in chosen]
        if self.quality is not None:
            return [below_deviation(value, self.quality) for value in values]
        sparsity = 0.5 if self.sparsity is None else self.sparsity
        if self.allocation == "sensitivity":
            zeros = by_sensitivity(
                program, chosen, sparsity, {weight.name: int((weight.value == 0).sum()) for weight in chosen}, _without_smallest, context
            )
            return [lowest(weight.value.abs(), zeros[weight.name]) for weight in chosen]
        return smallest_of_all(values, sparsity) if self.scope == "global" else [smallest(value, sparsity) for value in values]


def _without_smallest(weight: Weight, values: object) -> Callable[[int], Tensor]:
    return lambda count: weight.value.masked_fill(lowest(weight.value.abs(), count), 0)


def check_zeroes_more(step: str, chosen: list[Weight], marked: list[Tensor]) -> None:
    """Find that all that is marked is zero already.

    Raises:
        LaconicError: says so of the step.
    """
    if not any(bool(weight.value[zeroed].any()) for weight, zeroed in zip(chosen, marked, strict=True)):
        names = ", ".join(weight.name for weight in chosen)
        raise LaconicError(f"{step} would zero no weight that is not zero already in {names}; ask for more")


def check_not_emptied(chosen: list[Weight], marked: list[Tensor]) -> None:
    """Find layers in which nothing but zeros would be left.

    Raises:
        LaconicError: names them.
    """
    emptied = [weight.name for weight, zeroed in zip(chosen, marked, strict=True) if not weight.value[~zeroed].any()]
    if emptied:
        raise LaconicError(
            f"pruning left no weight at all in {', '.join(emptied)}; lower the sparsity or the quality, or exclude these layers"
        )
