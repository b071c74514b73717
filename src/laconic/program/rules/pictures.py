"""Operations on pictures and series: pooling, upsampling, pixel shuffling, padding, windows. Positions are no channels."""

import re
from math import prod

import torch

from laconic.program.axes import UNIT, MisfitError, Term, concatenation, product
from laconic.program.rules.table import rule
from laconic.program.walk import Axes, Node, Walk, argument, where

aten = torch.ops.aten


@rule(
    *(aten.max_pool1d, aten.max_pool2d, aten.max_pool3d, aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten.adaptive_avg_pool1d),
    *(aten.adaptive_avg_pool2d, aten.adaptive_avg_pool3d, aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d),
    *(aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d, aten.upsample_linear1d, aten.upsample_bilinear2d),
    *(aten.upsample_trilinear3d, aten.upsample_bicubic2d, aten._upsample_nearest_exact1d, aten._upsample_nearest_exact2d),
    *(aten._upsample_nearest_exact3d, aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa),
    *(aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad3d, aten.replication_pad1d, aten.replication_pad2d),
    aten.replication_pad3d,
)
def _resized(walk: Walk, node: Node) -> Axes:
    kept = _before_positions(walk, node)
    return [*kept, *walk.positions(node, len(kept))]


@rule(
    *(aten.adaptive_max_pool1d, aten.adaptive_max_pool2d, aten.adaptive_max_pool3d, aten.max_pool1d_with_indices),
    *(aten.max_pool2d_with_indices, aten.max_pool3d_with_indices),
)
def _resized_with_positions(walk: Walk, node: Node) -> list[Axes]:
    kept, shape = _before_positions(walk, node), walk.values[node][0].shape
    result = [*kept, *(walk.dimension(int(size), f"{where(node)}: positions") for size in shape[len(kept) :])]
    return [result, result]


def _before_positions(walk: Walk, node: Node) -> Axes:
    """Return the axes in front of the positions, as many as the operation's name says (`2d`), and freeze those."""
    axes = walk.of(node.args[0])
    found = re.search(r"(\d)d", str(node.target))
    if found is None or len(axes) < int(found[1]):
        raise MisfitError("an unknown number of positions")
    count = len(axes) - int(found[1])
    walk.freeze(axes[count:], f"{where(node)}: positions")
    return axes[:count]


@rule(aten.grid_sampler, aten.grid_sampler_2d, aten.grid_sampler_3d)
def _sampled(walk: Walk, node: Node) -> Axes:
    axes, grid = walk.of(node.args[0]), walk.of(node.args[1])
    walk.freeze([*axes[2:], *grid[1:]], f"{where(node)}: positions")
    return [walk.unify(axes[0], grid[0], node), axes[1], *walk.positions(node)]


@rule(aten.pixel_shuffle)
def _pixel_shuffle(walk: Walk, node: Node) -> Axes:
    axes, factor = walk.of(node.args[0]), int(node.args[1])
    walk.freeze(axes[-2:], f"{where(node)}: positions")
    channels, block = walk.algebra.split_product(axes[-3], walk.algebra.size(axes[-3]) // factor**2, factor**2)
    walk.algebra.freeze(block, f"{where(node)}: pixels of a block")
    return [*axes[:-3], channels, *walk.positions(node, len(axes) - 2)]


@rule(aten.pixel_unshuffle)
def _pixel_unshuffle(walk: Walk, node: Node) -> Axes:
    axes, factor = walk.of(node.args[0]), int(node.args[1])
    walk.freeze(axes[-2:], f"{where(node)}: positions")
    block = walk.algebra.new(factor**2, f"{where(node)}: pixels of a block")
    return [*axes[:-3], product([axes[-3], block]), *walk.positions(node, len(axes) - 2)]


@rule(aten.channel_shuffle, aten.native_channel_shuffle)
def _channel_shuffle(walk: Walk, node: Node) -> Axes:
    axes, groups = list(walk.of(node.args[0])), int(node.args[1])
    group, inner = walk.algebra.split_product(axes[1], groups, walk.algebra.size(axes[1]) // groups)
    axes[1] = product([inner, group])
    walk.algebra.freeze(group, f"{where(node)}: the groups that are shuffled")
    return axes


@rule(aten.pad, aten.constant_pad_nd)
def _pad(walk: Walk, node: Node) -> Axes:
    """Constants before and after are parts of their own, so that channels may be padded (identity shortcuts)."""
    axes, amounts = list(walk.of(node.args[0])), list(node.args[1])
    mode = argument(node, "mode", "constant")
    for back in range(1, len(amounts) // 2 + 1):
        axes[-back] = _padded(walk, node, back, amounts[2 * back - 2 : 2 * back], mode)
    return axes


def _padded(walk: Walk, node: Node, back: int, amounts: list[int], mode: str) -> Term:
    term = walk.of(node.args[0])[-back]
    if amounts == [0, 0]:
        return term
    if mode != "constant" or not all(isinstance(amount, int) and amount >= 0 for amount in amounts):
        walk.algebra.freeze(term, f"{where(node)}: cropped, or padded with what is there")
        return walk.dimension(walk.shape(node)[-back], f"{where(node)}: padding")
    before, after = ([walk.algebra.new(amount, f"{where(node)}: padding") if amount > 1 else UNIT] if amount else [] for amount in amounts)
    return concatenation([*before, term, *after])


@rule(aten.unfold)
def _unfold(walk: Walk, node: Node) -> Axes:
    axes = list(walk.of(node.args[0]))
    at = walk.axis(node.args[0], int(node.args[1]))
    walk.algebra.freeze(axes[at], f"{where(node)}: sliding windows")
    axes[at] = walk.dimension(walk.shape(node)[at], f"{where(node)}: sliding windows")
    return [*axes, walk.dimension(walk.shape(node)[-1], f"{where(node)}: sliding windows")]


@rule(aten.im2col)
def _im2col(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    walk.freeze(axes[-2:], f"{where(node)}: positions")
    window = walk.algebra.new(prod(node.args[1]), f"{where(node)}: window positions")
    return [*axes[:-3], product([axes[-3], window]), *walk.positions(node, len(axes) - 2)]


@rule(aten.col2im)
def _col2im(walk: Walk, node: Node) -> Axes:
    axes, window = walk.of(node.args[0]), prod(node.args[2])
    walk.freeze(axes[-1:], f"{where(node)}: positions")
    channels, positions = walk.algebra.split_product(axes[-2], walk.algebra.size(axes[-2]) // window, window)
    walk.algebra.freeze(positions, f"{where(node)}: window positions")
    return [*axes[:-2], channels, *walk.positions(node, len(axes) - 1)]
