"""N:M pruning: of every m consecutive weights along the input axis the n largest stay.

Source: A. Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", ICLR 2021, section 3 (the pattern and
the choice by magnitude); A. Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378 (2:4, and the axis: inputs of
linear layers, input channels of convolutions).
"""

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from laconic.context import Context
from laconic.errors import NotApplicableError
from laconic.program import Mask, Program, Weight, represent, weights
from laconic.program.select import KINDS
from laconic.prune.magnitude import check_not_emptied, check_zeroes_more
from laconic.step import Patterns, step

_MULTIPLIED = tuple(kind for kind in KINDS if kind != "embedding")  # the rows of an embedding are looked up, not summed over


def all_but_largest(weight: Tensor, n: int, m: int, axis: int) -> Tensor:
    """Mark all but the `n` entries of the largest magnitude of every `m` consecutive ones along an axis.

    Args:
        weight: its size along `axis` is a multiple of `m`.
        n: how many stay, below `m`. Among equals the first stays.
        m: how many are looked at together.
        axis: along which they are consecutive.

    Returns:
        Boolean tensor of the shape of `weight`, True where the entry is to be zeroed.
    """
    groups = weight.movedim(axis, -1).unflatten(-1, (-1, m)).abs()
    order = groups.argsort(dim=-1, descending=True, stable=True)
    marked = torch.ones_like(groups, dtype=torch.bool).scatter_(-1, order[..., :n], False)
    return marked.flatten(-2).movedim(-1, axis)


@step
class NofM:
    """Keep the n largest of every m consecutive weights, and hold the others at zero.

    Smaller (bytes in packed storage). Faster on hardware with sparse matrix units, through runtimes that use them; none here does.
    """

    n: Annotated[int, Field(ge=1)] = 2  # how many stay
    m: Annotated[int, Field(ge=2)] = 4  # of how many
    indivisible: Literal["error", "leave"] = "error"  # layers whose inputs are no multiple of m: refuse, or leave alone
    include: Patterns = ()  # name patterns of layers to prune; empty: all convolutions, linear and recurrent layers
    exclude: Patterns = ()  # name patterns of layers to leave alone

    forms: ClassVar[frozenset[str]] = frozenset({"sparse"})

    @model_validator(mode="after")
    def _some_go(self) -> Self:
        if self.n >= self.m:
            raise ValueError(f"n={self.n} of m={self.m} leaves every weight where it is; n must be below m")
        return self

    def __call__(self, program: Program, context: Context) -> Program:
        """Register a mask on every chosen weight."""
        chosen = self._divisible(weights(program, self.include, self.exclude, _MULTIPLIED), context)
        marked = [all_but_largest(weight.value, self.n, self.m, _input_axis(weight)) for weight in chosen]
        check_zeroes_more("prune.NofM", chosen, marked)
        check_not_emptied(chosen, marked)
        for weight, zeroed in zip(chosen, marked, strict=True):
            represent(program, weight.name, Mask(~zeroed))
            context.note(f"{weight.name}: {self.n} of {self.m} of {zeroed.numel()} weights stay")
        return program

    def _divisible(self, found: list[Weight], context: Context) -> list[Weight]:
        """Return the weights that have whole groups."""
        odd = [weight for weight in found if weight.value.shape[_input_axis(weight)] % self.m]
        words = ", ".join(f"{weight.name} ({weight.value.shape[_input_axis(weight)]})" for weight in odd)
        if odd and self.indivisible == "error":
            raise NotApplicableError(
                f"the inputs of these layers are not a multiple of m={self.m}: {words}; choose another m, exclude them, or give "
                "indivisible: leave"
            )
        if len(odd) == len(found):
            raise NotApplicableError(f"there is no layer whose inputs are a multiple of m={self.m}: {words}")
        if odd:
            context.note(f"left alone, for their inputs are not a multiple of {self.m}: {words}")
        return [weight for weight in found if weight not in odd]


def _input_axis(weight: Weight) -> int:
    return 1 - weight.axis
