"""What each operation costs in multiply-accumulates and each tensor in bytes, from the algebra: of a program as it is, or after a cut."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import torch

from laconic.program.axes import Keep
from laconic.program.pack import packed
from laconic.program.sizes import Sizes
from laconic.program.walk import BATCH, Axes, Node, Walk, tensors_of

aten = torch.ops.aten

_Count: TypeAlias = Callable[[Node, Sizes], int]
_COUNTS: dict[Any, _Count] = {}


@dataclass(frozen=True)
class Cost:
    """What one operation or one tensor costs, as a function of the sizes."""

    name: str  # of the node, or of the tensor
    symbols: frozenset[int]  # on whose channels it depends
    of: Callable[[Sizes], int]


def mac_costs(walk: Walk) -> list[Cost]:
    """Return the multiply-accumulates of one example at every operation that multiplies.

    They are what `measure.macs` counts on the operations that run, without running them.
    """
    return [_mac_cost(walk, node) for node in walk.program.graph.nodes if node.target in _COUNTS]


def byte_costs(walk: Walk) -> list[Cost]:
    """Return the bytes of every tensor in its deployable form."""
    return [_byte_cost(walk, name, axes) for name, axes in walk.tensors.items()]


def macs(walk: Walk, keep: Keep | None = None) -> dict[str, int]:
    """Return the multiply-accumulates of one example by node, when symbols keep their channels."""
    sizes = Sizes(walk, keep or {})
    return {cost.name: cost.of(sizes) for cost in mac_costs(walk)}


def stored_bytes(walk: Walk, keep: Keep | None = None) -> dict[str, int]:
    """Return the bytes of every tensor in its deployable form, when symbols keep their channels."""
    sizes = Sizes(walk, keep or {})
    return {cost.name: cost.of(sizes) for cost in byte_costs(walk)}


def _mac_cost(walk: Walk, node: Node) -> Cost:
    involved = [axes for each in (node, *node.all_input_nodes) for axes in tensors_of(walk.axes[each])]
    symbols = frozenset(leaf for axes in involved for term in axes for leaf in walk.algebra.leaves(term))
    return Cost(node.name, symbols, lambda sizes: _COUNTS[node.target](node, sizes) // BATCH)


def _byte_cost(walk: Walk, name: str, axes: Axes) -> Cost:
    stored, entries = packed(walk.program, name).bytes, max(prod(map(walk.algebra.size, axes)), 1)
    symbols = frozenset(leaf for term in axes for leaf in walk.algebra.leaves(term))
    return Cost(name, symbols, lambda sizes: round(stored * prod(map(sizes.of, axes)) / entries))


def _counts(*targets: Any) -> Callable[[_Count], _Count]:
    def register(count: _Count) -> _Count:
        for target in targets:
            _COUNTS.update({getattr(target, name): count for name in target.overloads()})
        return count

    return register


@_counts(aten.conv1d, aten.conv2d, aten.conv3d)
def _convolution(node: Node, sizes: Sizes) -> int:
    return prod(sizes.shape(node)) * prod(sizes.shape(node.args[1])[1:])


@_counts(aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
def _transposed(node: Node, sizes: Sizes) -> int:
    return prod(sizes.shape(node.args[0])) * prod(sizes.shape(node.args[1])[1:])


@_counts(aten.linear)
def _linear(node: Node, sizes: Sizes) -> int:
    return prod(sizes.shape(node)) * sizes.shape(node.args[1])[-1]


@_counts(aten.matmul, aten.mm, aten.bmm, aten.mv)
def _product(node: Node, sizes: Sizes) -> int:
    return prod(sizes.shape(node)) * sizes.shape(node.args[0])[-1]


@_counts(aten.addmm, aten.baddbmm)
def _added_product(node: Node, sizes: Sizes) -> int:
    return prod(sizes.shape(node)) * sizes.shape(node.args[1])[-1]


@_counts(aten.scaled_dot_product_attention)
def _attention(node: Node, sizes: Sizes) -> int:
    query, key, value = (sizes.shape(argument) for argument in node.args[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


@_counts(aten.einsum)
def _einsum(node: Node, sizes: Sizes) -> int:
    equation: Any = node.args[0].replace(" ", "").split("->")[0]
    letters: dict[str, int] = {}
    for names, tensor in zip(equation.split(","), node.args[1], strict=True):
        for letter, size in zip(names, sizes.shape(tensor), strict=True):
            letters[letter] = max(letters.get(letter, 1), size)
    return prod(letters.values()) if len(node.args[1]) > 1 else 0


@_counts(aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu)
def _recurrent(node: Node, sizes: Sizes) -> int:
    steps = prod(sizes.shape(node.args[0])[:-1])
    return steps * sum(prod(shape) for shape in map(sizes.shape, node.args[2]) if len(shape) == 2)
