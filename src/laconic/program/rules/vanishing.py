"""Which channels are zero in a value when the weights that make and read them are: what adds up others computes another sum without them.

Cutting channels of the two sides of `q @ k` equals zeroing them where zeroed weights make zeros of one side. Behind `sigmoid` or
`elu + 1` they do not: such a group is inexact.
"""

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import fx

from laconic.program.rules.table import enter
from laconic.program.walk import Node, Walk, argument, tensors_of, where

aten = torch.ops.aten

Survivors: TypeAlias = set[int]
"""Symbols whose zeroed channels may be other than zero in a value."""

Pass: TypeAlias = Callable[["_Zeros", Node], Survivors]
_PASSES: dict[Any, Pass] = {}


def blur_sums(walk: Walk) -> None:
    """Mark every channel that is added up where zeroing it would leave something to add."""
    zeros = _Zeros(walk)
    for node in walk.program.graph.nodes:
        zeros.survivors[node] = zeros.after(node)
    for node, term, factors in walk.sums:
        for leaf in set(walk.algebra.leaves(term)):
            if all(leaf in zeros.survivors[factor] for factor in factors if leaf in zeros.leaves(factor)):
                walk.algebra.inexact.setdefault(leaf, f"{where(node)}: adds up these channels, which are not zero where their weights are")


class _Zeros:
    """What is known of every value so far."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.survivors: dict[Node, Survivors] = {}
        self._leaves: dict[Node, set[int]] = {}
        self._changed = set[int]()
        for node in walk.program.graph.nodes:  # through a view, what is written into one value changes another
            if (
                node.op == "call_function"
                and node.target not in _PASSES
                and getattr(getattr(node.target, "_schema", None), "is_mutable", False)
            ):
                self._changed |= self.leaves(node.args[0])

    def leaves(self, node: Node) -> set[int]:
        """Return the symbols of a value's axes."""
        if node not in self._leaves:
            self._leaves[node] = {
                leaf for axes in tensors_of(self.walk.axes[node]) for term in axes for leaf in self.walk.algebra.leaves(term)
            }
        return self._leaves[node]

    def after(self, node: Node) -> Survivors:
        """Return what survives in the value of an operation; where nothing is known, everything."""
        if node.op in ("get_attr", "output"):
            return set()
        found = _PASSES.get(node.target)
        return (found(self, node) | self._changed) & self.leaves(node) if found else self.leaves(node)

    def tensors(self, node: Node) -> list[Node]:
        """Return the tensors that an operation reads; of several in one value, that value."""
        return [source for source in node.all_input_nodes if self.walk.axes[source] is not None]

    def product(self, node: Node, factors: list[Node]) -> Survivors:
        """Return what survives in a product: what is zero in no factor that has it."""
        return {
            leaf for leaf in self.leaves(node) if all(leaf in self.survivors[factor] for factor in factors if leaf in self.leaves(factor))
        }

    def union(self, node: Node) -> Survivors:
        """Return what survives in any operand, or is in none."""
        sources = self.tensors(node)
        known = set[int]().union(*(self.leaves(source) for source in sources))
        return (self.leaves(node) - known).union(*(self.survivors[source] for source in sources))


@enter(_PASSES, aten.relu, aten.relu6, aten.leaky_relu, aten.prelu, aten.gelu, aten.silu, aten.mish, aten.tanh, aten.hardswish, aten.glu)
@enter(_PASSES, aten.elu, aten.selu, aten.celu, aten.hardshrink, aten.softshrink, aten.neg, aten.abs, aten.sqrt, aten.square)
@enter(_PASSES, aten.sign, aten.sin, aten.sinh, aten.tan, aten.asin, aten.atan, aten.erf, aten.expm1, aten.log1p, aten.round, aten.floor)
@enter(_PASSES, aten.ceil, aten.trunc, aten.dropout, aten.feature_dropout, aten.contiguous, aten.clone, aten.detach, aten.alias, aten.to)
@enter(_PASSES, aten._to_copy, aten.cumsum, aten.max_pool1d, aten.max_pool2d, aten.max_pool3d, aten.avg_pool1d, aten.avg_pool2d)
@enter(_PASSES, aten.avg_pool3d, aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten.adaptive_avg_pool3d, aten.upsample_nearest2d)
@enter(
    _PASSES, aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle, aten.unfold
)
@enter(_PASSES, aten.im2col, aten.col2im, aten.view, aten.reshape, aten._unsafe_view, aten.flatten, aten.unflatten, aten.squeeze)
@enter(
    _PASSES, aten.unsqueeze, aten.permute, aten.transpose, aten.t, aten.mT, aten.movedim, aten.roll, aten.flip, aten.expand, aten.expand_as
)
@enter(_PASSES, aten.repeat, aten.repeat_interleave, aten.cat, aten.concat, aten.stack, aten.split, aten.split_with_sizes, aten.chunk)
@enter(_PASSES, aten.tensor_split, aten.slice, aten.narrow, aten.select, aten.unbind, aten.index, aten.index_select, aten.tril, aten.triu)
@enter(
    _PASSES,
    aten.embedding,
    aten.sum,
    aten.mean,
    aten.amax,
    aten.amin,
    aten.linalg_vector_norm,
    operator.getitem,
)
def _stays_zero(zeros: _Zeros, node: Node) -> Survivors:
    return zeros.union(node)


@enter(_PASSES, aten.pad, aten.constant_pad_nd)
def _padded(zeros: _Zeros, node: Node) -> Survivors:
    return zeros.leaves(node) if argument(node, "value") else zeros.union(node)


@enter(_PASSES, aten.zeros, aten.zeros_like, aten.new_zeros)
def _zero(zeros: _Zeros, node: Node) -> Survivors:
    return set()


@enter(_PASSES, aten.mul, aten.matmul, aten.bmm, aten.mm, aten.mv, aten.outer, aten.einsum)
def _product(zeros: _Zeros, node: Node) -> Survivors:
    return zeros.product(node, zeros.tensors(node))


@enter(
    _PASSES,
    *(aten.linear, aten.conv1d, aten.conv2d, aten.conv3d, aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d),
)
def _layer(zeros: _Zeros, node: Node) -> Survivors:
    bias = argument(node, "bias")
    return zeros.product(node, list(node.args[:2])) | (set() if bias is None else zeros.survivors[bias])


@enter(_PASSES, aten.addmm, aten.baddbmm)
def _added_product(zeros: _Zeros, node: Node) -> Survivors:
    added, *factors = node.args[:3]
    return zeros.product(node, factors) | zeros.survivors[added] | (zeros.leaves(node) - zeros.leaves(added))


@enter(_PASSES, aten.div)
def _quotient(zeros: _Zeros, node: Node) -> Survivors:
    return zeros.product(node, zeros.tensors(node)[:1])


@enter(_PASSES, aten.scaled_dot_product_attention)
def _attention(zeros: _Zeros, node: Node) -> Survivors:
    return zeros.product(node, [node.args[2]])


@enter(_PASSES, aten.add, aten.sub)
def _sum(zeros: _Zeros, node: Node) -> Survivors:
    """What one term lacks is not zero there: it was broadcast, or is a number."""
    sources = zeros.tensors(node)
    if not all(isinstance(term, fx.Node) for term in node.args[:2]):
        return zeros.leaves(node)
    lacking = (zeros.leaves(node) - zeros.leaves(source) for source in sources)
    return zeros.union(node).union(*lacking)


@enter(_PASSES, aten.pow.Tensor_Scalar)
def _power(zeros: _Zeros, node: Node) -> Survivors:
    return zeros.union(node) if node.args[1] > 0 else zeros.leaves(node)


@enter(_PASSES, aten.batch_norm, aten.instance_norm, aten.layer_norm, aten.group_norm, aten.rms_norm)
def _normalized(zeros: _Zeros, node: Node) -> Survivors:
    """A scale and a shift that are zero make zeros."""
    weight, bias = argument(node, "weight"), argument(node, "bias")
    if weight is not None and (bias is not None or node.target is aten.rms_norm.default):
        shift = zeros.survivors[bias] if bias is not None else set[int]()
        return (zeros.leaves(node) - zeros.leaves(weight)) | zeros.survivors[weight] | shift
    return zeros.leaves(node)
