"""Layers as matrix products: the rows that a linear layer or a convolution multiplies its weight by, and what comes out."""

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.nn.utils import parametrize

from laconic.program.program import Program, holder
from laconic.program.walk import Node, argument

aten = torch.ops.aten

_CONVOLUTIONS: dict[Any, int] = {aten.conv1d.default: 1, aten.conv2d.default: 2}  # operation -> spatial dimensions


@dataclass(frozen=True)
class Layer:
    """A linear layer or convolution of a program: `outputs = rows @ weight.flatten(1).T + bias`, group by group."""

    node: Node
    source: fx.Node  # what it reads
    weight: str
    bias: str | None
    shape: tuple[int, ...]  # of the weight: (out, in, *kernel)

    @property
    def spatial(self) -> int:
        """How many spatial dimensions it has; 0 for a linear layer."""
        return _CONVOLUTIONS.get(self.node.target, 0)

    @property
    def groups(self) -> int:
        """How many groups of outputs there are, each of which reads inputs of its own."""
        return int(argument(self.node, "groups", 1))

    @property
    def inputs(self) -> int:
        """How many numbers one output is made of."""
        return prod(self.shape[1:])

    def rows(self, value: Tensor) -> Tensor:
        """Return the inputs of every output position, one per row: (positions, groups * in * kernel), as `weight[o].flatten()`."""
        if not self.spatial:
            return value.reshape(-1, value.shape[-1])
        stride, padding, dilation = (self.each(name) for name in ("stride", "padding", "dilation"))
        if self.spatial == 1:
            value, stride, padding, dilation = value.unsqueeze(2), [1, *stride], [0, *padding], [1, *dilation]
        kernel = self.shape[2:] if self.spatial == 2 else (1, *self.shape[2:])
        unfolded = F.unfold(value, kernel, tuple(dilation), tuple(padding), tuple(stride))  # (n, in * kernel, positions)
        return unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1])

    def targets(self, output: Tensor) -> Tensor:
        """Return outputs, one position per row: (positions, out), in the order of `rows`."""
        moved = output.movedim(self.channel_axis(), -1)
        return moved.reshape(-1, moved.shape[-1])  # of a whole layer too, where this one has been cut

    def channel_axis(self) -> int:
        """Return the axis of the output channels in what it computes."""
        return 1 if self.spatial else -1

    def each(self, name: str) -> list[int]:
        """Return an argument for every spatial dimension, where one may be written for all."""
        given: Any = argument(self.node, name)
        values = [given] if isinstance(given, int) else list(given)
        return values * self.spatial if len(values) < self.spatial else values


def layers(program: Program) -> list[Layer]:
    """Return the linear layers and ungrouped 1-d and 2-d convolutions whose weight and bias are stored as such and read nowhere else."""
    found = [layer for node in program.graph.nodes if (layer := _layer(program, node)) is not None]
    reads = Counter[str]()  # of every tensor, whatever operations read it: tied ones are read under one name
    for node in program.graph.nodes:
        if node.op == "get_attr":
            reads[str(node.target)] += len(node.users)
    return [layer for layer in found if all(reads[name] == 1 for name in (layer.weight, layer.bias) if name is not None)]


def layer_at(node: Node) -> Layer | None:
    """Return the linear layer or 1-d or 2-d convolution that a node is, however its weight is represented; else None."""
    if node.target not in (aten.linear.default, *_CONVOLUTIONS):
        return None
    source, weight, bias = node.args[0], node.args[1], argument(node, "bias")
    if any(each.op != "get_attr" for each in (weight, bias) if each is not None):
        return None
    shape = tuple(int(size) for size in weight.meta["val"].shape)
    return Layer(node, source, str(weight.target), None if bias is None else str(bias.target), shape)


def _layer(program: Program, node: Node) -> Layer | None:
    layer = layer_at(node)
    if layer is None or layer.groups != 1:
        return None
    stored = [name for name in (layer.weight, layer.bias) if name is not None]
    return None if any(parametrize.is_parametrized(*holder(program, name)) for name in stored) else layer
