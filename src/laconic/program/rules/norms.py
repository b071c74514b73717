"""Normalization layers."""

from typing import Any

import torch
from torch import fx

from laconic.program.rules.table import rule
from laconic.program.walk import Axes, Node, Walk, argument, where

aten = torch.ops.aten


@rule(aten.batch_norm)
def _batch_norm(walk: Walk, node: Node) -> Axes:
    return _per_channel(walk, node, node.args[1:5])


@rule(aten.instance_norm)
def _instance_norm(walk: Walk, node: Node) -> Axes:
    _blur(walk, node, walk.of(node.args[0])[2:])
    return _per_channel(walk, node, node.args[1:5])


def _per_channel(walk: Walk, node: Node, tensors: Any) -> Axes:
    axes = walk.of(node.args[0])
    for tensor in tensors:
        if tensor is not None:
            walk.unify(axes[1], walk.of(tensor)[0], node)
    return axes


def _blur(walk: Walk, node: Node, axes: Axes) -> None:
    for term in axes:
        walk.algebra.blur(term, f"{where(node)}: normalizes over these channels")


@rule(aten.group_norm)
def _group_norm(walk: Walk, node: Node) -> Axes:
    axes, groups = walk.of(node.args[0]), int(argument(node, "num_groups"))
    _, inner = walk.algebra.split_product(axes[1], groups, walk.algebra.size(axes[1]) // groups)
    _blur(walk, node, [inner, *axes[2:]])
    return _per_channel(walk, node, [argument(node, "weight"), argument(node, "bias")])


@rule(aten.layer_norm, aten.rms_norm)
def _layer_norm(walk: Walk, node: Node) -> Axes:
    axes, count = walk.of(node.args[0]), len(argument(node, "normalized_shape"))
    for tensor in (argument(node, "weight"), argument(node, "bias")):
        if isinstance(tensor, fx.Node):
            for ours, theirs in zip(axes[-count:], walk.of(tensor), strict=True):
                walk.unify(ours, theirs, node)
    _blur(walk, node, axes[-count:])
    return axes
