"""Operations entry by entry that torch does not declare as such, and those along one axis that keep it."""

import torch

from laconic.program.rules.table import rule
from laconic.program.walk import Axes, Node, Walk, argument, where

aten = torch.ops.aten


@rule(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar, aten.masked_fill, aten.rsub, aten.lerp)
def _together(walk: Walk, node: Node) -> Axes:
    return walk.pointwise(node, walk.operands(node))


@rule(
    *(aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout, aten.contiguous, aten.clone, aten.detach),
    *(aten.alias, aten.to, aten._to_copy, aten.type_as, aten.lift_fresh_copy, aten.hardswish, aten.hardsigmoid, aten.log_sigmoid),
    *(aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.rand_like, aten.randn_like, aten.bernoulli.default),
    *(aten.fill_, aten.fill, aten.masked_fill_.Scalar, aten.zero_, aten.special_expit),
)
def _same(walk: Walk, node: Node) -> Axes:
    return walk.of(node.args[0])


@rule(aten.copy_.default, aten.copy.default)
def _copy(walk: Walk, node: Node) -> Axes:
    walk.pointwise(node, [node.args[0], node.args[1]])
    return walk.of(node.args[0])


@rule(aten.prelu)
def _prelu(walk: Walk, node: Node) -> Axes:
    axes, slope = walk.of(node.args[0]), walk.of(node.args[1])
    if slope and walk.algebra.size(slope[0]) != 1:
        walk.unify(axes[1], slope[0], node)
    return axes


@rule(aten.softmax.int, aten.log_softmax.int, aten._softmax, aten._log_softmax, aten.cumsum, aten.cumprod, aten.logcumsumexp)
def _along_axis(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    walk.algebra.blur(axes[walk.axis(node.args[0], argument(node, "dim"))], f"{where(node)}: normalizes over these channels")
    return axes


@rule(aten.glu)
def _glu(walk: Walk, node: Node) -> Axes:
    axes = list(walk.of(node.args[0]))
    at = walk.axis(node.args[0], argument(node, "dim"))
    first, second = walk.algebra.split_sum(axes[at], walk.algebra.size(axes[at]) // 2)
    axes[at] = walk.unify(first, second, node)
    return axes


@rule(aten.tril, aten.triu)
def _triangle(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    walk.freeze(axes[-2:], f"{where(node)}: positions are compared")
    return axes
