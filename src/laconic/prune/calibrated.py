"""Pruning in one shot on calibration inputs, layer by layer, each behind the pruned layers before it: what its techniques share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import torch
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, fx

from laconic.context import Context, calibration_inputs
from laconic.errors import LaconicError, NotApplicableError
from laconic.program import Mask, Program, Weight, clone, represent, weights
from laconic.program.fold import assign
from laconic.program.forms import kept
from laconic.program.layers import Layer
from laconic.program.represent import representations
from laconic.program.sequential import Turn, in_turn, layers_of
from laconic.program.unquantized import check_unquantized
from laconic.prune.allocation import Allocation, by_sensitivity, evenly
from laconic.step import Patterns, step_name
from laconic.train.progress import bar


class Pruned(NamedTuple):
    """A weight that was pruned, (groups, out, in), and where it is held at zero."""

    value: Tensor
    zeroed: Tensor


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Calibrated(ABC):
    """How many weights go and of which layers."""

    sparsity: Annotated[float, Field(gt=0, lt=1)] | None = None  # share of weights set to zero; 0.5 where no pattern is given either
    pattern: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=2)]] | None = None  # of [n, m], n of m inputs stay
    allocation: Allocation = "uniform"  # the same sparsity for all layers, or by how much noise it makes in each, measured
    include: Patterns = ()  # name patterns of layers to prune; empty: all
    exclude: Patterns = ()  # name patterns of layers to leave alone, e.g. ("classifier*",)

    forms: ClassVar[frozenset[str]] = frozenset({"sparse"})
    moves: ClassVar[bool] = False  # whether weights that stay are changed

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if self.pattern is None:
            return self
        if self.sparsity is not None or self.allocation != "uniform":
            raise ValueError("a pattern fixes the sparsity of every layer: leave sparsity and allocation out")
        if self.pattern[0] >= self.pattern[1]:
            raise ValueError(f"a pattern [n, m] keeps n of m, fewer than all; got {list(self.pattern)}")
        return self

    @abstractmethod
    def _pruner(self, turn: Turn, held: Tensor) -> Callable[[int], Pruned]:
        """Return what prunes the weight of a layer to so many zeros, or to the pattern.

        Args:
            turn: the layer, and what calibration tells of it.
            held: (groups, out, in), True where entries are held at zero already.
        """

    def __call__(self, program: Program, context: Context) -> Program:
        """Prune one layer after the other and register a mask on each weight."""
        layers = self._layers(program, context)
        chosen = [weight for weight in weights(program) if weight.name in layers]
        held = {weight.name: _held(program, weight, layers[weight.name]) for weight in chosen}
        inputs = torch.cat(calibration_inputs(program, context))
        zeros, whole, done = self._zeros(program, chosen, layers, held, context), clone(program), 0
        with bar("pruning", 0, len(chosen)) as tell:
            for turn in in_turn(program, whole, chosen, inputs):
                name = turn.layer.weight
                zeroed = self._prune(program, turn, held[name], zeros[name])
                context.note(f"{name}: {zeroed.float().mean():.1%} of {zeroed.numel()} weights are zero")
                tell(done := done + 1, name)
        return program

    def _layers(self, program: Program, context: Context) -> dict[str, Layer]:
        """Return the layers to prune by their weight; others that the patterns leave are named in the journal."""
        matching = weights(program, self.include, self.exclude)
        layers = {layer.weight: layer for layer in layers_of(matching).values()}
        others = ", ".join(weight.name for weight in matching if weight.name not in layers)
        if not layers:
            raise NotApplicableError(f"{step_name(self)} prunes weights that one linear layer or convolution reads; not {others}")
        if self.moves:
            check_unquantized(program, [weight for weight in matching if weight.name in layers])
        if self.pattern is not None:
            _check_divides(layers.values(), self.pattern[1])
        if others:
            context.note(f"left dense, for several layers or one of another kind read them: {others}")
        return layers

    def _zeros(
        self, program: Program, chosen: list[Weight], layers: dict[str, Layer], held: dict[str, Tensor], context: Context
    ) -> dict[str, int]:
        """Return how many entries of each weight are to be zero."""
        there = {name: int(each.sum()) for name, each in held.items()}
        if self.pattern is not None:
            zeros = {name: _by_pattern(layers[name], each, self.pattern) for name, each in held.items()}
        else:
            zeros = evenly(chosen, self._sparsity)
        missing = {name: count - there[name] for name, count in zeros.items()}
        if (max(missing.values()) if self.allocation == "uniform" else sum(missing.values())) <= 0:
            raise LaconicError(f"{step_name(self)} would zero no weight that is not zero already in {', '.join(zeros)}; ask for more")
        if self.allocation == "uniform":
            return zeros

        def pruned(weight: Weight, values: dict[fx.Node, Any]) -> Callable[[int], Tensor]:
            layer = layers[weight.name]
            turn = Turn(layer, weight.value, values, {layer.source: values[layer.source]})
            prune = self._pruner(turn, held[weight.name])
            return lambda count: prune(count).value.reshape(weight.value.shape)

        return by_sensitivity(program, chosen, self._sparsity, there, pruned, context)

    def _prune(self, program: Program, turn: Turn, held: Tensor, count: int) -> Tensor:
        """Prune the weight of the layer whose turn it is, and hold its zeros; returns where they are."""
        found, name, shape = self._pruner(turn, held)(count), turn.layer.weight, turn.dense.shape
        zeroed = found.zeroed.reshape(shape)
        if not found.value.any():
            raise LaconicError(f"pruning left no weight at all in {name}; lower the sparsity, or exclude this layer")
        if self.moves:
            with torch.no_grad():  # behind the mask stays what was there, as in all masked weights
                assign(program, name, torch.where(zeroed, turn.dense, found.value.reshape(shape).to(turn.dense.dtype)))
        represent(program, name, Mask(~zeroed))
        return zeroed

    @property
    def _sparsity(self) -> float:
        return 0.5 if self.sparsity is None else self.sparsity


def along_inputs(layer: Layer) -> Tensor:
    """Return the columns of a layer's weight in the order in which those of one kernel position follow each other."""
    return torch.arange(layer.inputs).reshape(layer.shape[1], -1).T.flatten()


def in_groups(tensor: Tensor, layer: Layer, size: int) -> Tensor:
    """Return (groups, out, in) as groups of `size` inputs that follow each other: (groups, out, in / size, size)."""
    groups, out, inputs = tensor.shape
    return tensor[:, :, along_inputs(layer)].reshape(groups, out, inputs // size, size)


def _by_pattern(layer: Layer, held: Tensor, pattern: tuple[int, int]) -> int:
    """Return how many zeros a weight has by a pattern, those included that are held already."""
    kept, of = pattern
    return int(in_groups(held, layer, of).sum(-1).clamp_min(of - kept).sum())


def _held(program: Program, weight: Weight, layer: Layer) -> Tensor:
    keep = kept(representations(program, weight.name))
    held = torch.zeros_like(weight.value, dtype=torch.bool) if keep is None else ~keep
    return held.reshape(layer.groups, -1, layer.inputs)


def _check_divides(layers: Iterable[Layer], of: int) -> None:
    wrong = [f"{layer.weight} ({layer.shape[1]} inputs)" for layer in layers if layer.shape[1] % of]
    if wrong:
        raise LaconicError(f"a pattern of {of} needs inputs in a multiple of {of}, unlike {', '.join(wrong)}; exclude these layers")
