"""Cross-layer equalization: channels between two layers are rescaled so that both use their grids evenly.

Source: M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.1, eq. 9 to 11. A positive factor per channel passes through ReLU, pooling and reshapes; what makes
the channels is divided by it and what reads them multiplied, and the network computes the same.

Here the channels of a residual sum, which several layers make and read, are scaled together, by the largest ranges on each side. Where
the paper turns ReLU6 into ReLU, its bound stays: integer kernels absorb one bound per tensor, not one per channel. Channels that reach
the bound on calibration inputs keep their scale, and no other channel is scaled until it would.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from laconic.program import Mask, Program, read
from laconic.program.fold import assign, bias_of, set_bias
from laconic.program.groups import Found, Group, find
from laconic.program.lower import bounds_of
from laconic.program.observe import observe
from laconic.program.represent import representations
from laconic.program.walk import argument

aten = torch.ops.aten

_LAYERS = tuple(overload for conv in (aten.conv1d, aten.conv2d, aten.conv3d) for overload in (conv.default, conv.padding))
_SCALABLE = (  # a positive factor per channel passes through
    aten.relu.default,
    aten.leaky_relu.default,
    aten.prelu.default,
    aten.dropout.default,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.mean.dim,
    aten.amax.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_bilinear2d.vec,
    aten.add.Tensor,
    aten.cat.default,
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.contiguous.default,
    aten.clone.default,
)
_SWEEPS = 30  # over all links; each brings neighbours closer to a common solution
_STILL = 1e-4  # relative change of a sweep that counts as none
_NEGLIGIBLE = 1e-4  # share of a layer's range below which a channel is its bias alone, which scaling would blow up


def equalizing_scale(made: Tensor, read: Tensor) -> Tensor:
    """Return what to divide the makers of channels by, and to multiply their readers by: eq. 11, `s = sqrt(r1 r2) / r2`.

    Args:
        made: (channels,) the largest magnitude of the weights that make each channel.
        read: (channels,) of those that read it.

    >>> equalizing_scale(torch.tensor([8.0, 0.0]), torch.tensor([2.0, 1.0]))
    tensor([2., 1.])
    """
    living = (made > _NEGLIGIBLE * made.max()) & (read > _NEGLIGIBLE * read.max())
    return torch.where(living, torch.sqrt(made / torch.where(living, read, 1.0)), torch.ones_like(made))


@dataclass
class Link:
    """Channels that some layers make and some read, with nothing between that would not let a factor pass."""

    channels: int
    makers: list["End"] = field(default_factory=list)
    readers: list["End"] = field(default_factory=list)
    bounded: list[tuple[fx.Node, int, NDArray[np.int64]]] = field(default_factory=list)  # activation, axis, channel of each position
    blocked: bool = False


@dataclass(frozen=True)
class End:
    """Where the channels of a link lie in the weight of a layer."""

    layer: fx.Node
    axis: int
    channel: NDArray[np.int64]  # (size of the axis,): the channel of each position, -1 where to none

    @property
    def weight(self) -> str:
        """The name of the weight."""
        return str(self.layer.all_input_nodes[1].target)

    def spread(self, scale: Tensor) -> Tensor:
        """Return the factor of every position of the axis, for a factor per channel."""
        index = torch.from_numpy(self.channel).to(scale.device)
        return torch.where(index >= 0, scale[index.clamp_min(0)], torch.ones((), dtype=scale.dtype, device=scale.device))

    def ranges(self, program: Program, channels: int) -> Tensor:
        """Return the largest magnitude of each channel, (channels,)."""
        weight = read(program, self.weight).detach()
        largest = weight.abs().movedim(self.axis, 0).flatten(1).amax(1)
        index = torch.from_numpy(self.channel).to(weight.device)
        return largest.new_zeros(channels).scatter_reduce(0, index[index >= 0], largest[index >= 0], "amax")

    def scale(self, program: Program, factor: Tensor) -> None:
        """Multiply the weight along the axis."""
        weight, spread = read(program, self.weight).detach(), self.spread(factor)
        with torch.no_grad():
            assign(program, self.weight, weight * spread.reshape([-1 if axis == self.axis else 1 for axis in range(weight.ndim)]))


def equalize(program: Program, batches: list[Tensor]) -> list[str]:
    """Equalize all links of a program in place, batch norms folded before; what it computes on `batches` stays the same.

    Returns:
        The weights that were scaled.
    """
    found = links(program)
    scales = [torch.ones(link.channels) for link in found]
    limits = _limits(program, found, batches)
    for _ in range(_SWEEPS):
        largest = 0.0
        for link, total, (least, fixed) in zip(found, scales, limits, strict=True):
            made, taken = (
                torch.stack([end.ranges(program, link.channels) for end in ends]).amax(0) for ends in (link.makers, link.readers)
            )
            factor = torch.where(fixed, torch.ones_like(total), torch.maximum(equalizing_scale(made, taken), least / total))
            scale_link(program, link, factor)
            total *= factor
            largest = max(largest, float((factor - 1).abs().max()))
        if largest < _STILL:
            break
    return list(dict.fromkeys(end.weight for link in found for end in (*link.makers, *link.readers)))


def scale_link(program: Program, link: Link, factor: Tensor) -> None:
    """Divide what makes the channels of a link by `factor`, (channels,), and multiply what reads them."""
    for end in link.makers:
        end.scale(program, 1 / factor)
        bias = bias_of(program, end.layer)
        if bias is not None:
            set_bias(program, end.layer, bias * end.spread(1 / factor))
    for end in link.readers:
        end.scale(program, factor)


def _limits(program: Program, found: list[Link], batches: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return, for each link, the least scale of each channel, and whether it must stay as it is, so that no bound acts otherwise."""
    limits = [(torch.zeros(link.channels), torch.zeros(link.channels, dtype=torch.bool)) for link in found]
    places = {node: (axis, channel, limit) for link, limit in zip(found, limits, strict=True) for node, axis, channel in link.bounded}
    sources = {node.all_input_nodes[0]: node for node in places}

    def look(source: fx.Node, value: Tensor) -> None:
        node = sources[source]
        (axis, channel, (least, fixed)), bounds = places[node], bounds_of(node)
        assert bounds is not None
        rows, index = value.movedim(axis, 0).flatten(1), torch.from_numpy(channel)
        for bound, seen in zip(bounds, (rows.amin(1), rows.amax(1)), strict=True):
            if bound:  # a bound at 0 is at 0 in any scale
                share = (seen / bound)[index >= 0]
                least.scatter_reduce_(0, index[index >= 0], share, "amax")
        fixed |= least >= 1

    if sources:
        observe(program, ((batch,) for batch in batches), sources, look)
    return limits


def links(program: Program) -> list[Link]:
    """Return what can be equalized: for every channel group, its links, in network order."""
    found = find(program)
    reads = [node.target for node in program.graph.nodes if node.op == "get_attr" for _ in node.users]
    own = {str(name) for name in reads if reads.count(name) == 1}
    return [link for group in found.groups for link in _links(found, group, own)]


def _links(found: Found, group: Group, own: set[str]) -> Iterator[Link]:
    program, components = found.walk.program, _Components(found, group)
    places = {(slot.tensor, slot.axis): slot for slot in group.slots}
    for node in program.graph.nodes:
        taken, made = [each for each in node.all_input_nodes if each in components], node in components
        if not taken and not made:
            continue
        if node.target is aten.linear.default or node.target in _LAYERS:
            ends = _ends(program, node, places, own, group.channels)
            if made:
                components.of(node).makers += [end for end in ends if end.axis == 0]
                components.of(node).blocked |= not any(end.axis == 0 for end in ends)
            for each in taken:
                reading = [End(end.layer, end.axis, end.channel) for end in ends if end.axis == 1 or _is_depthwise(node)]
                components.of(each).readers += reading
                components.of(each).blocked |= not reading
        elif made and taken and _passes(node, components):
            components.join([node, *taken])
            if bounds_of(node) is not None and node.target is not aten.relu.default:
                components.of(node).bounded.append((node, *components.place(node)))
        elif node.op != "placeholder" or made:
            for each in [*taken, *([node] if made else [])]:
                components.of(each).blocked = True
    yield from (link for link in components.links() if link.makers and link.readers and not link.blocked)


class _Components:
    """The values that carry the channels of a group, joined where they must have one scale."""

    def __init__(self, found: Found, group: Group) -> None:
        self._walk, self._group, algebra = found.walk, group, found.walk.algebra
        self._link: dict[fx.Node, Link] = {}
        for node in found.walk.program.graph.nodes:
            axes = found.walk.axes.get(node) if node.op in ("call_function", "call_module", "placeholder") else None
            if axes and not isinstance(axes[0], list) and any(group.symbol in algebra.leaves(term) for term in axes):
                self._link[node] = Link(group.channels)

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._link

    def of(self, node: fx.Node) -> Link:
        return self._link[node]

    def join(self, nodes: list[fx.Node]) -> None:
        kept, others = self._link[nodes[0]], {id(self._link[node]): self._link[node] for node in nodes[1:]}
        for other in others.values():
            if other is not kept:
                kept.makers += other.makers
                kept.readers += other.readers
                kept.bounded += other.bounded
                kept.blocked |= other.blocked
                self._link.update({node: kept for node, link in self._link.items() if link is other})

    def place(self, node: fx.Node) -> tuple[int, NDArray[np.int64]]:
        """Return the axis of a value on which the channels lie, and the channel of each position there."""
        algebra, axes = self._walk.algebra, self._walk.of(node)
        axis = next(axis for axis, term in enumerate(axes) if self._group.symbol in algebra.leaves(term))
        return axis, algebra.channel_of(axes[axis], self._group.symbol)

    def links(self) -> list[Link]:
        return list({id(link): link for link in self._link.values()}.values())


def _ends(program: Program, node: fx.Node, places: dict[tuple[str, int], Any], own: set[str], channels: int) -> list[End]:
    """Return where the channels lie in the weight of a layer whose tensors are its own and plain, or masked."""
    tensors = [str(each.target) for each in node.all_input_nodes[1:] if each.op == "get_attr"]
    plain = all(name in own and all(isinstance(form, Mask) for form in representations(program, name)) for name in tensors)
    if not tensors or not plain or (argument(node, "groups", 1) != 1 and not _is_depthwise(node)):
        return []
    found = [(axis, places[tensors[0], axis]) for axis in (0, 1) if (tensors[0], axis) in places]
    return [End(node, axis, slot.channel) for axis, slot in found if slot.positions(channels).shape[1]]


def _is_depthwise(node: fx.Node) -> bool:
    """Say whether every channel of a convolution is made of the same channel of what it reads."""
    if node.target not in _LAYERS:
        return False
    weight: Any = node.all_input_nodes[1].meta["val"]
    source: Any = node.all_input_nodes[0].meta["val"]
    return bool(argument(node, "groups") == weight.shape[0] == source.shape[1]) and weight.shape[1] == 1 and weight.shape[0] > 1


def _passes(node: fx.Node, components: _Components) -> bool:
    """Say whether a factor per channel of what a node reads is one of what it gives."""
    if node.target in (aten.pad.default, aten.constant_pad_nd.default):
        return pads_zeros(node)
    bounds = bounds_of(node)
    if bounds is not None:
        return bounds[0] <= 0 <= bounds[1]
    if node.target is aten.add.Tensor:
        return all(isinstance(each, fx.Node) and each in components for each in node.args[:2])
    return node.target in _SCALABLE


def pads_zeros(node: fx.Node) -> bool:
    """Say whether a padding puts zeros around a value."""
    mode, value = argument(node, "mode", "constant"), argument(node, "value")
    return mode == "constant" and not value
