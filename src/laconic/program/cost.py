"""What each operation costs in multiply-accumulates and each tensor in bytes, from the algebra: of a program as it is, or after a cut."""

from collections.abc import Callable
from math import prod
from typing import Any, TypeAlias

import torch
from torch import fx

from laconic.program.axes import Keep
from laconic.program.represent import packed
from laconic.program.sizes import Sizes
from laconic.program.walk import BATCH, Node, Walk

aten = torch.ops.aten

_Count: TypeAlias = Callable[[Node, Sizes], int]
_COUNTS: dict[Any, _Count] = {}


def macs(walk: Walk, keep: Keep | None = None) -> dict[fx.Node, int]:
    """Return the multiply-accumulates of one example at every operation that multiplies, when symbols keep their channels.

    It counts what `measure.macs` counts on the operations that run, without running them.
    """
    sizes = Sizes(walk, keep or {})
    return {node: _COUNTS[node.target](node, sizes) // BATCH for node in walk.program.graph.nodes if node.target in _COUNTS}


def stored_bytes(walk: Walk, keep: Keep | None = None) -> dict[str, int]:
    """Return the bytes of every tensor in its deployable form, when symbols keep their channels."""
    whole, after = Sizes(walk, {}), Sizes(walk, keep or {})
    shares = {name: prod(map(after.of, axes)) / max(prod(map(whole.of, axes)), 1) for name, axes in walk.tensors.items()}
    return {name: round(packed(walk.program, name).bytes * share) for name, share in shares.items()}


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
