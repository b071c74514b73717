"""Literal sizes written in a graph, and what they become after a cut: one small updater per operation.

An operation whose arguments name sizes (`view`, `expand`, `groups`, `normalized_shape`, ...) is named in this table with a function of the
node and the sizes that returns the call to make in its place, or None where nothing changes. The graph is changed by `cut` alone.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from laconic.program.rules.table import enter
from laconic.program.sizes import Sizes
from laconic.program.walk import Node, argument

aten = torch.ops.aten

Call: TypeAlias = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""Operation, arguments, named arguments."""

Update: TypeAlias = Callable[[Node, Sizes], Call | None]
LITERALS: dict[Any, Update] = {}


def _with(node: Node, name: str, value: Any) -> Call:
    """Return a node's call with another argument of that name."""
    position = [declared.name for declared in node.target._schema.arguments].index(name)
    if position >= len(node.args):
        return node.target, tuple(node.args), {**node.kwargs, name: value}
    return node.target, (*node.args[:position], value, *node.args[position + 1 :]), dict(node.kwargs)


def _sized(node: Node, name: str, sizes: Sizes, after: list[int]) -> Call:
    written = argument(node, name)
    return _with(node, name, [sizes.literal(before, size) for before, size in zip(written, after, strict=True)])


@enter(LITERALS, aten.view.default, aten._unsafe_view, aten.expand, aten.broadcast_to, aten.zeros, aten.ones, aten.full)
@enter(LITERALS, aten.empty.memory_format, aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty)
def _shape(node: Node, sizes: Sizes) -> Call | None:
    return _sized(node, "size", sizes, sizes.shape(node))


@enter(LITERALS, aten.reshape)
def _reshaped(node: Node, sizes: Sizes) -> Call | None:
    return _sized(node, "shape", sizes, sizes.shape(node))


@enter(LITERALS, aten.unflatten.int)
def _unflattened(node: Node, sizes: Sizes) -> Call | None:
    at = int(argument(node, "dim")) % len(sizes.state.of(node.args[0]))
    return _sized(node, "sizes", sizes, sizes.shape(node)[at : at + len(argument(node, "sizes"))])


@enter(LITERALS, aten.squeeze)
def _squeezed(node: Node, sizes: Sizes) -> Call | None:
    """Only what was of size 1 before is dropped, whatever has become of size 1."""
    before = [sizes.state.algebra.size(term) for term in sizes.state.of(node.args[0])]
    after, dims = sizes.shape(node.args[0]), argument(node, "dim")
    asked = range(len(before)) if dims is None else [dim % len(before) for dim in ([dims] if isinstance(dims, int) else dims)]
    if all(before[dim] == 1 or after[dim] != 1 for dim in asked):
        return None
    return aten.squeeze.dims, (node.args[0], [dim for dim in asked if before[dim] == 1]), {}


@enter(LITERALS, aten.conv1d, aten.conv2d, aten.conv3d)
def _groups(node: Node, sizes: Sizes) -> Call | None:
    if argument(node, "groups") == 1:
        return None
    return _with(node, "groups", sizes.shape(node.args[0])[1] // sizes.shape(node.args[1])[1])


@enter(LITERALS, aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
def _transposed_groups(node: Node, sizes: Sizes) -> Call | None:
    if argument(node, "groups") == 1:
        return None
    return _with(node, "groups", sizes.shape(node)[1] // sizes.shape(node.args[1])[1])


@enter(LITERALS, aten.layer_norm, aten.rms_norm)
def _normalized(node: Node, sizes: Sizes) -> Call | None:
    return _with(node, "normalized_shape", sizes.shape(node)[-len(argument(node, "normalized_shape")) :])


@enter(LITERALS, aten.group_norm)
def _norm_groups(node: Node, sizes: Sizes) -> Call | None:
    algebra, groups, term = sizes.state.algebra, int(argument(node, "num_groups")), sizes.state.of(node.args[0])[1]
    outer, _ = algebra.split_product(term, groups, algebra.size(term) // groups)
    return _with(node, "num_groups", sizes.of(outer))


@enter(LITERALS, aten.repeat_interleave.self_int)
def _interleaved(node: Node, sizes: Sizes) -> Call | None:
    return node.target, tuple(node.args), {name: value for name, value in node.kwargs.items() if name != "output_size"}


@enter(LITERALS, aten.split.Tensor, aten.split.sizes, aten.split_with_sizes, aten.chunk, aten.tensor_split)
def _split(node: Node, sizes: Sizes) -> Call | None:
    """Equal parts may come out unequal: written as sizes from then on."""
    at = int(argument(node, "dim")) % len(sizes.state.of(node.args[0]))
    parts = [sizes.of(axes[at]) for axes in sizes.state.axes[node]]
    if parts == [sizes.state.algebra.size(axes[at]) for axes in sizes.state.axes[node]]:
        return None
    return aten.split_with_sizes.default, (node.args[0], parts, at), {}


@enter(LITERALS, aten.slice.Tensor)
def _sliced(node: Node, sizes: Sizes) -> Call | None:
    at, first, taken = _part(node, sizes)
    return None if taken is None else (node.target, (node.args[0], at, first, first + taken), {})


@enter(LITERALS, aten.narrow.default)
def _narrowed(node: Node, sizes: Sizes) -> Call | None:
    at, first, taken = _part(node, sizes)
    return None if taken is None else (node.target, (node.args[0], at, first, taken), {})


def _part(node: Node, sizes: Sizes) -> tuple[int, int, int | None]:
    """Return the axis, the first position and how many are taken; None where nothing changes."""
    algebra, source = sizes.state.algebra, sizes.state.of(node.args[0])
    at = int(argument(node, "dim")) % len(source)
    before = algebra.size(source[at])
    if before == sizes.of(source[at]):
        return at, 0, None
    if algebra.size(sizes.state.of(node)[at]) == before:
        return at, 0, sizes.of(source[at])
    start = int(argument(node, "start") or 0)
    start = max(0, start + before if start < 0 else start)
    return at, sizes.of(algebra.split_sum(source[at], start)[0]) if start else 0, sizes.shape(node)[at]


@enter(LITERALS, aten.scaled_dot_product_attention)
def _attention_scale(node: Node, sizes: Sizes) -> Call | None:
    """The default scale is that of the head's size; cutting it must not change the scores of what stays."""
    query = sizes.state.of(node.args[0])
    before = sizes.state.algebra.size(query[-1])
    if argument(node, "scale") is not None or before == sizes.of(query[-1]):
        return None
    return _with(node, "scale", before**-0.5)
