"""Layers with weights: linear, bilinear, convolutions, embeddings."""

import torch

from laconic.program.axes import MisfitError, Term, product
from laconic.program.rules.table import rule
from laconic.program.walk import KERNEL, Axes, Node, Walk, argument, where

aten = torch.ops.aten


@rule(aten.linear)
def _linear(walk: Walk, node: Node) -> Axes:
    inputs, (*out, into) = walk.of(node.args[0]), walk.of(node.args[1])
    walk.contract(node, inputs[-1], into)
    if out:
        _unify_bias(walk, node, out[0])
    return [*inputs[:-1], *out]


def _unify_bias(walk: Walk, node: Node, channels: Term) -> None:
    bias = argument(node, "bias")
    if bias is not None:
        walk.unify(channels, walk.of(bias)[0], node)


@rule(aten.bilinear)
def _bilinear(walk: Walk, node: Node) -> Axes:
    first, second, (out, left, right) = (walk.of(node.args[i]) for i in range(3))
    walk.contract(node, first[-1], left)
    walk.contract(node, second[-1], right)
    for ours, theirs in zip(first[:-1], second[:-1], strict=True):
        walk.unify(ours, theirs, node)
    _unify_bias(walk, node, out)
    return [*first[:-1], out]


@rule(aten.conv1d, aten.conv2d, aten.conv3d)
def _convolution(walk: Walk, node: Node) -> Axes:
    """The input channels are groups x inner, the output channels groups x outer; each group has its own kernels."""
    inputs, weight, groups = _checked(walk, node)
    group, inner = walk.algebra.split_product(inputs[1], groups, walk.algebra.size(inputs[1]) // groups)
    walk.contract(node, weight[1], inner)
    of_group, outer = walk.algebra.split_product(weight[0], groups, walk.algebra.size(weight[0]) // groups)
    walk.unify(of_group, group, node)
    return _convolved(walk, node, product([group, outer]))


@rule(aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
def _transposed_convolution(walk: Walk, node: Node) -> Axes:
    """As a convolution, but with kernels of shape (groups x inner, outer, ...)."""
    inputs, weight, groups = _checked(walk, node)
    group, _ = walk.algebra.split_product(inputs[1], groups, walk.algebra.size(inputs[1]) // groups)
    walk.contract(node, weight[0], inputs[1])
    return _convolved(walk, node, product([group, weight[1]]))


def _checked(walk: Walk, node: Node) -> tuple[Axes, Axes, int]:
    """Return a convolution's axes and group count, with the kernel's positions and what it slides over frozen."""
    inputs, weight = walk.of(node.args[0]), walk.of(node.args[1])
    if len(inputs) != len(weight):
        raise MisfitError("a convolution without a batch")
    walk.freeze(weight[2:], f"{where(node)}: {KERNEL}")
    walk.freeze(inputs[2:], f"{where(node)}: positions")
    return inputs, weight, int(argument(node, "groups"))


def _convolved(walk: Walk, node: Node, channels: Term) -> Axes:
    _unify_bias(walk, node, channels)
    return [walk.of(node.args[0])[0], channels, *walk.positions(node)]


@rule(aten.embedding)
def _embedding(walk: Walk, node: Node) -> Axes:
    rows, columns = walk.of(node.args[0])
    walk.algebra.freeze(rows, f"{where(node)}: the vocabulary")
    return [*walk.of(node.args[1]), columns]


@rule(aten.embedding_bag, aten._embedding_bag, aten._embedding_bag_forward_only)
def _embedding_bag(walk: Walk, node: Node) -> list[Axes]:
    rows, columns = walk.of(node.args[0])
    walk.algebra.freeze(rows, f"{where(node)}: the vocabulary")
    reason = f"{where(node)}: what is in the bags"
    for counted in walk.operands(node)[1:]:
        walk.freeze(walk.of(counted), reason)
    bags, *others = walk.values[node]
    bookkeeping = [[walk.dimension(int(size), reason) for size in other.shape] for other in others]
    return [[walk.dimension(int(bags.shape[0]), reason), columns], *bookkeeping]
