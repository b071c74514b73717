"""Literal sizes written in a graph, and what they become after a cut: one small updater per operation.

An operation whose arguments name sizes (`view`, `expand`, `groups`, `normalized_shape`, ...) is named in this table with a function of the
node and the sizes that returns its new arguments, or None where nothing changes.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import fx

from laconic.program.sizes import Sizes
from laconic.program.walk import Node

aten = torch.ops.aten

Update: TypeAlias = Callable[[fx.Node, Sizes], tuple[tuple[Any, ...], dict[str, Any]] | None]
LITERALS: dict[Any, Update] = {}


def _literal(*targets: Any) -> Callable[[Update], Update]:
    def register(update: Update) -> Update:
        for target in targets:
            overloads = [getattr(target, name) for name in target.overloads()] if hasattr(target, "overloads") else [target]
            LITERALS.update(dict.fromkeys(overloads, update))
        return update

    return register


def _with(node: Node, position: int, value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (*node.args[:position], value, *node.args[position + 1 :]), dict(node.kwargs)


@_literal(aten.view, aten.reshape, aten._unsafe_view, aten.expand)
def _shape(node: Node, sizes: Sizes) -> Any:
    written: Any = node.args[1]
    after = sizes.shape(node)
    return _with(node, 1, [sizes.literal(before, size) for before, size in zip(written, after, strict=True)])


@_literal(aten.zeros, aten.ones, aten.full, aten.empty)
def _created(node: Node, sizes: Sizes) -> Any:
    return _with(node, 0, [sizes.literal(before, size) for before, size in zip(node.args[0], sizes.shape(node), strict=True)])


@_literal(aten.new_zeros, aten.new_ones, aten.new_full)
def _created_like(node: Node, sizes: Sizes) -> Any:
    return _with(node, 1, [sizes.literal(before, size) for before, size in zip(node.args[1], sizes.shape(node), strict=True)])


@_literal(aten.unflatten)
def _unflattened(node: Node, sizes: Sizes) -> Any:
    written: Any = node.args[2]
    at = int(node.args[1]) % len(sizes.state.of(node.args[0]))
    after = sizes.shape(node)[at : at + len(written)]
    return _with(node, 2, [sizes.literal(before, size) for before, size in zip(written, after, strict=True)])


@_literal(aten.conv1d, aten.conv2d, aten.conv3d, aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
def _groups(node: Node, sizes: Sizes) -> Any:
    if len(node.args) <= 6 or node.args[6] == 1:
        return None
    channels = sizes.shape(node.args[0])[1]
    weight = sizes.state.of(node.args[1])
    transposed = "transpose" in str(node.target)
    if transposed:
        out = sizes.shape(node)[1]
        return _with(node, 6, out // sizes.of(weight[1]))
    return _with(node, 6, channels // sizes.of(weight[1]))


@_literal(aten.layer_norm, aten.rms_norm)
def _normalized(node: Node, sizes: Sizes) -> Any:
    return _with(node, 1, sizes.shape(node)[-len(node.args[1]) :])


@_literal(aten.group_norm)
def _norm_groups(node: Node, sizes: Sizes) -> Any:
    groups = int(node.args[1])
    term = sizes.state.of(node.args[0])[1]
    outer, _ = sizes.state.algebra.split_product(term, groups, sizes.state.algebra.size(term) // groups)
    return _with(node, 1, sizes.of(outer))


@_literal(aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split)
def _split(node: Node, sizes: Sizes) -> Any:
    """Equal parts may come out unequal: written as sizes from then on."""
    at = _dim(node, 2, 0) % len(sizes.state.of(node.args[0]))
    parts = [sizes.of(axes[at]) for axes in sizes.state.axes[node]]
    before = [sizes.state.algebra.size(axes[at]) for axes in sizes.state.axes[node]]
    if parts == before:
        return None
    node.target = aten.split_with_sizes.default
    return (node.args[0], parts, at), {}


def _dim(node: Node, position: int, default: int) -> int:
    value: Any = node.args[position] if len(node.args) > position else node.kwargs.get("dim", default)
    return int(value)


@_literal(aten.slice.Tensor)
def _slice(node: Node, sizes: Sizes) -> Any:
    algebra, source = sizes.state.algebra, sizes.state.of(node.args[0])
    at = _dim(node, 1, 0) % len(source)
    before, after = algebra.size(source[at]), sizes.of(source[at])
    taken = sizes.shape(node)[at]
    if before == after:
        return None
    start = int(node.args[2] or 0) if len(node.args) > 2 else 0
    start = start + before if start < 0 else start
    if algebra.size(sizes.state.of(node)[at]) == before:
        return (node.args[0], at, 0, after), {}
    first = sizes.of(algebra.split_sum(source[at], start)[0]) if start else 0
    return (node.args[0], at, first, first + taken), {}


@_literal(aten.scaled_dot_product_attention)
def _attention_scale(node: Node, sizes: Sizes) -> Any:
    """The default scale is that of the head's size; cutting it must not change the scores of what stays."""
    query = sizes.state.of(node.args[0])
    before = sizes.state.algebra.size(query[-1])
    if node.kwargs.get("scale") is not None or before == sizes.of(query[-1]):
        return None
    return tuple(node.args), {**node.kwargs, "scale": before**-0.5}
