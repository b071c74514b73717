"""Operations that arrange the same entries another way: reshapes, permutations, copies along new axes, moved positions."""

from math import prod
from typing import Any

import torch

from laconic.program.axes import MisfitError, Term, product
from laconic.program.rules.table import rule
from laconic.program.walk import Axes, Node, Walk, argument, where

aten = torch.ops.aten


@rule(
    aten.view.default,
    aten.reshape,
    aten._unsafe_view,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze,
    aten.unsqueeze,
    aten.ravel,
)
def _reshape(walk: Walk, node: Node) -> Axes:
    """All dimensions in a row, split again where the result's sizes say."""
    rest, result = product(walk.of(node.args[0])), list[Term]()
    sizes = walk.shape(node)
    for position, size in enumerate(sizes):
        remaining = prod(sizes[position + 1 :])
        first, rest = walk.algebra.split_product(rest, size, remaining)
        result.append(first)
    return result


@rule(aten.view_as, aten.reshape_as)
def _reshape_as(walk: Walk, node: Node) -> Axes:
    axes = _reshape(walk, node)
    return [walk.unify(ours, theirs, node) for ours, theirs in zip(axes, walk.of(node.args[1]), strict=True)]


@rule(aten.permute)
def _permute(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    return [axes[dim] for dim in node.args[1]]


@rule(aten.transpose.int, aten.swapaxes, aten.swapdims)
def _transpose(walk: Walk, node: Node) -> Axes:
    axes = list(walk.of(node.args[0]))
    a, b = (walk.axis(node.args[0], int(dim)) for dim in node.args[1:3])
    axes[a], axes[b] = axes[b], axes[a]
    return axes


@rule(aten.t, aten.numpy_T)
def _t(walk: Walk, node: Node) -> Axes:
    return walk.of(node.args[0])[::-1]


@rule(aten.mT, aten.adjoint)
def _matrices_transposed(walk: Walk, node: Node) -> Axes:
    *others, rows, columns = walk.of(node.args[0])
    return [*others, columns, rows]


@rule(aten.movedim, aten.moveaxis)
def _movedim(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    moved: list[Any] = [[dims] if isinstance(dims, int) else list(dims) for dims in node.args[1:3]]
    source, target = ([dim % len(axes) for dim in dims] for dims in moved)
    order = [dim for dim in range(len(axes)) if dim not in source]
    for place, dim in sorted(zip(target, source, strict=True)):
        order.insert(place, dim)
    return [axes[dim] for dim in order]


@rule(aten.roll)
def _roll(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    dims = argument(node, "dims") or range(len(axes))
    walk.freeze([axes[dim] for dim in dims], f"{where(node)}: positions are moved")
    return axes


@rule(aten.flip)
def _flip(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    walk.freeze([axes[dim] for dim in node.args[1]], f"{where(node)}: order is reversed")
    return axes


@rule(aten.rot90)
def _rot90(walk: Walk, node: Node) -> Axes:
    axes = list(walk.of(node.args[0]))
    a, b = (walk.axis(node.args[0], dim) for dim in argument(node, "dims"))
    walk.freeze([axes[a], axes[b]], f"{where(node)}: order is reversed")
    if argument(node, "k") % 2:
        axes[a], axes[b] = axes[b], axes[a]
    return axes


@rule(aten.expand, aten.broadcast_to)
def _expand(walk: Walk, node: Node) -> Axes:
    axes, sizes = walk.of(node.args[0]), walk.shape(node)
    own = [None] * (len(sizes) - len(axes)) + list(axes)
    return [
        walk.dimension(size) if term is None or walk.algebra.size(term) != size else term for term, size in zip(own, sizes, strict=True)
    ]


@rule(aten.expand_as)
def _expand_as(walk: Walk, node: Node) -> Axes:
    return walk.broadcast(node, walk.of(node.args[0]), walk.of(node.args[1]))


@rule(aten.repeat, aten.tile)
def _repeat(walk: Walk, node: Node) -> Axes:
    axes, sizes = walk.of(node.args[0]), walk.shape(node)
    own = [product([])] * (len(sizes) - len(axes)) + list(axes)
    return [
        product([walk.dimension(size // walk.algebra.size(term), f"{where(node)}: copies"), term])
        for term, size in zip(own, sizes, strict=True)
    ]


@rule(aten.repeat_interleave.self_int)
def _repeat_interleave(walk: Walk, node: Node) -> Axes:
    axes, dim = list(walk.of(node.args[0])), argument(node, "dim")
    if dim is None:
        raise MisfitError("everything is repeated")
    at = walk.axis(node.args[0], dim)
    axes[at] = product([axes[at], walk.algebra.new(int(node.args[1]), f"{where(node)}: copies")])
    return axes
