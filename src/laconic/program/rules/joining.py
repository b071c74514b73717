"""Joining tensors and taking them apart: concatenations, parts, positions picked by index, and constants that are written into."""

import operator
from typing import Any

import torch

from laconic.program.axes import concatenation
from laconic.program.rules.table import rule
from laconic.program.walk import Axes, Node, Walk, argument, where

aten = torch.ops.aten


@rule(aten.cat, aten.concat)
def _cat(walk: Walk, node: Node) -> Axes:
    return _joined(walk, node, walk.axis(node.args[0][0], argument(node, "dim")))


@rule(aten.hstack)
def _hstack(walk: Walk, node: Node) -> Axes:
    return _joined(walk, node, min(1, len(walk.shape(node)) - 1))


def _joined(walk: Walk, node: Node, at: int) -> Axes:
    tensors: Any = node.args[0]
    axes = [walk.all_equal(node, [walk.of(tensor)[i] for tensor in tensors]) for i in range(len(walk.of(tensors[0]))) if i != at]
    axes.insert(at, concatenation([walk.of(tensor)[at] for tensor in tensors]))
    return axes


@rule(aten.stack)
def _stack(walk: Walk, node: Node) -> Axes:
    tensors: Any = node.args[0]
    axes = [walk.all_equal(node, list(terms)) for terms in zip(*(walk.of(tensor) for tensor in tensors), strict=True)]
    at = argument(node, "dim") % (len(axes) + 1)
    axes.insert(at, walk.dimension(len(tensors), f"{where(node)}: what is stacked"))
    return axes


@rule(aten.split.Tensor, aten.split.sizes, aten.split_with_sizes, aten.chunk, aten.tensor_split.indices, aten.tensor_split.sections)
def _split(walk: Walk, node: Node) -> list[Axes]:
    axes = walk.of(node.args[0])
    at = walk.axis(node.args[0], argument(node, "dim"))
    rest, parts = axes[at], list[Axes]()
    sizes = [int(part.shape[at]) for part in walk.values[node]]
    for size in sizes[:-1]:
        first, rest = walk.algebra.split_sum(rest, size)
        parts.append([*axes[:at], first, *axes[at + 1 :]])
    return [*parts, [*axes[:at], rest, *axes[at + 1 :]]]


@rule(aten.slice.Tensor)
def _slice(walk: Walk, node: Node) -> Axes:
    start = argument(node, "start") or 0
    if argument(node, "step") == 1 and isinstance(start, int):
        return _part(walk, node, start)
    axes = list(walk.of(node.args[0]))
    at = walk.axis(node.args[0], argument(node, "dim"))
    walk.algebra.freeze(axes[at], f"{where(node)}: every so many are taken")
    axes[at] = walk.dimension(walk.shape(node)[at], f"{where(node)}: every so many are taken")
    return axes


@rule(aten.narrow.default)
def _narrow(walk: Walk, node: Node) -> Axes:
    return _part(walk, node, int(argument(node, "start")))


def _part(walk: Walk, node: Node, start: int) -> Axes:
    axes = list(walk.of(node.args[0]))
    at = walk.axis(node.args[0], argument(node, "dim"))
    term, taken = axes[at], walk.shape(node)[at]
    size = walk.algebra.size(term)
    if taken == size:
        return axes
    start = max(0, start + size if start < 0 else start)
    if start:
        _, term = walk.algebra.split_sum(term, start)
    if start + taken < size:
        term, _ = walk.algebra.split_sum(term, taken)
    axes[at] = term
    return axes


@rule(aten.select.int)
def _select(walk: Walk, node: Node) -> Axes:
    axes = list(walk.of(node.args[0]))
    at = walk.axis(node.args[0], int(node.args[1]))
    walk.algebra.freeze(axes[at], f"{where(node)}: one position is taken")
    del axes[at]
    return axes


@rule(aten.unbind)
def _unbind(walk: Walk, node: Node) -> list[Axes]:
    axes = list(walk.of(node.args[0]))
    at = walk.axis(node.args[0], argument(node, "dim"))
    walk.algebra.freeze(axes[at], f"{where(node)}: taken apart one by one")
    del axes[at]
    return [list(axes) for _ in walk.values[node]]


@rule(aten.index.Tensor)
def _index(walk: Walk, node: Node) -> Axes:
    """Indexed dimensions are frozen; dimensions that are not indexed and stay in place pass."""
    axes, indices = walk.of(node.args[0]), list(node.args[1])
    indexed = [i for i, index in enumerate(indices) if index is not None]
    if indexed != list(range(indexed[0], indexed[-1] + 1)):
        walk.freeze(axes, f"{where(node)}: picked by index")
        return _picked(walk, node, [])
    return _picked(walk, node, indexed)


@rule(aten.index_select)
def _index_select(walk: Walk, node: Node) -> Axes:
    return _picked(walk, node, [walk.axis(node.args[0], argument(node, "dim"))])


@rule(aten.gather, aten.take_along_dim)
def _gather(walk: Walk, node: Node) -> Axes:
    walk.freeze(walk.of(node.args[0]), f"{where(node)}: picked by index")
    return _picked(walk, node, [])


def _picked(walk: Walk, node: Node, indexed: list[int]) -> Axes:
    """Freeze what is indexed; returns the result's axes, with those that are not indexed in place, or all frozen where none is named."""
    reason, axes = f"{where(node)}: picked by index", walk.of(node.args[0])
    for index in walk.operands(node)[1:]:
        walk.freeze(walk.of(index), f"{where(node)}: an index")
    walk.freeze([axes[i] for i in indexed], reason)
    result = [walk.dimension(size, reason) for size in walk.shape(node)]
    passed = [(i, term) for i, term in enumerate(axes) if indexed and i not in indexed]
    extra = len(result) - len(passed)
    for i, term in passed:
        result[i if i < indexed[0] else i - len(indexed) + extra] = term
    return result


@rule(aten.sym_size.int)
def _nothing(walk: Walk, node: Node) -> None:
    return None


@rule(operator.getitem)
def _getitem(walk: Walk, node: Node) -> Any:
    source, index = node.args[:2]
    value = walk.axes[source]
    return value[index] if isinstance(value, list) and isinstance(index, int) and value and isinstance(value[0], list) else None


@rule(aten.zeros, aten.ones, aten.full, aten.new_zeros, aten.new_ones, aten.new_full, aten.empty.memory_format, aten.new_empty)
def _constant(walk: Walk, node: Node) -> Axes:
    """A constant takes the channels of whatever it meets; its literal sizes follow."""
    return walk.fresh(node)
