"""Reductions: sums and norms, to which a zeroed channel adds nothing, and all the others, which it changes."""

from typing import Any

import torch

from laconic.program.axes import UNIT, MisfitError
from laconic.program.rules.table import rule
from laconic.program.walk import Axes, Node, Walk, argument, where

aten = torch.ops.aten


@rule(
    *(aten.mean.dim, aten.mean.default, aten.var, aten.std, aten.amax, aten.amin, aten.logsumexp, aten.prod.dim_int, aten.any.dim),
    *(aten.all.dim, aten.max.default, aten.min.default, aten.nanmean),
)
def _averaged(walk: Walk, node: Node) -> Axes:
    _blur(walk, node)
    return _reduced(walk, node)


@rule(aten.var_mean, aten.std_mean)
def _averaged_twice(walk: Walk, node: Node) -> list[Axes]:
    _blur(walk, node)
    return [_reduced(walk, node)] * 2


@rule(aten.max.dim, aten.min.dim, aten.median.dim, aten.mode)
def _with_positions(walk: Walk, node: Node) -> list[Axes]:
    if any(user.args[1] == 1 and user.users for user in node.users):
        _freeze(walk, node)
    _blur(walk, node)
    return [_reduced(walk, node)] * 2


@rule(aten.sum.dim_IntList, aten.sum.default, aten.count_nonzero)
def _sum(walk: Walk, node: Node) -> Axes:
    return _summed(walk, node)


@rule(aten.linalg_vector_norm, aten.norm.ScalarOpt_dim, aten.norm.Scalar)
def _norm(walk: Walk, node: Node) -> Axes:
    order = argument(node, "ord", argument(node, "p", 2))
    if order is not None and order <= 0:
        _blur(walk, node)
    return _summed(walk, node)


def _summed(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    for dim in _chosen(walk, node):
        walk.add_up(node, axes[dim])
    return _reduced(walk, node)


@rule(aten.argmax, aten.argmin)
def _argmax(walk: Walk, node: Node) -> Axes:
    if argument(node, "dim") is None:
        raise MisfitError("an index over everything")
    _freeze(walk, node)
    return _reduced(walk, node)


@rule(aten.sort, aten.topk, aten.argsort, aten.msort)
def _sorted(walk: Walk, node: Node) -> Any:
    """The channels that are sorted stay whole; all others pass."""
    axes = list(walk.of(node.args[0]))
    at = walk.axis(node.args[0], argument(node, "dim", 0))
    walk.algebra.freeze(axes[at], f"{where(node)}: order is changed")
    value = walk.values[node]
    one = value if isinstance(value, torch.Tensor) else value[0]
    axes[at] = walk.dimension(int(one.shape[at]), f"{where(node)}: order is changed")
    return axes if value is one else [axes, axes]


@rule(aten.cosine_similarity)
def _cosine_similarity(walk: Walk, node: Node) -> Axes:
    first, second = walk.of(node.args[0]), walk.of(node.args[1])
    both = walk.broadcast(node, first, second)
    at = argument(node, "dim") % len(both)
    for factor in node.args[:2]:
        walk.add_up(node, both[at], [factor])
    return [term for i, term in enumerate(both) if i != at]


def _chosen(walk: Walk, node: Node) -> list[int]:
    """Return the positions of the axes that an operation reduces; all where it names none."""
    count, dims = len(walk.of(node.args[0])), argument(node, "dim")
    if dims is None or dims == []:
        return list(range(count))
    return sorted({dim % count for dim in ([dims] if isinstance(dims, int) else dims)})


def _freeze(walk: Walk, node: Node) -> None:
    axes = walk.of(node.args[0])
    walk.freeze([axes[dim] for dim in _chosen(walk, node)], f"{where(node)}: positions are counted")


def _blur(walk: Walk, node: Node) -> None:
    for dim in _chosen(walk, node):
        walk.algebra.blur(walk.of(node.args[0])[dim], f"{where(node)}: averages over these channels")


def _reduced(walk: Walk, node: Node) -> Axes:
    axes, chosen, keepdim = walk.of(node.args[0]), _chosen(walk, node), bool(argument(node, "keepdim", False))
    return [UNIT if i in chosen else term for i, term in enumerate(axes) if keepdim or i not in chosen]
