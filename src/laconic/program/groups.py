"""Channel groups: channels that can only come and go together, found by the axis algebra.

Groups are plain data derived from a program; after any structural edit they are found anew, never patched.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from laconic.program.axes import Algebra, Term
from laconic.program.describe import describe
from laconic.program.program import Program
from laconic.program.walk import KERNEL, Walk

_TWICE = "a product has these channels twice, so that what it is made of belongs to two of them"


@dataclass(frozen=True)
class Slot:
    """Where a group lives in one tensor: which positions of one axis belong to which channel."""

    tensor: str
    axis: int
    channel: NDArray[np.int64]  # (size of the axis,): the channel of each position, -1 where to none

    def positions(self, channels: int) -> NDArray[np.int64]:
        """Return the positions of each channel, (channels, k); none, (channels, 0), where channels have different numbers of them."""
        order = np.argsort(self.channel, kind="stable")[np.count_nonzero(self.channel < 0) :]
        even = len(np.unique(np.bincount(self.channel[order], minlength=channels))) == 1
        return order.reshape(channels, -1) if even else np.zeros((channels, 0), dtype=np.int64)


@dataclass(frozen=True)
class Group:
    """Channels numbered from 0 that are removed together, wherever they live."""

    name: str  # of the first tensor that holds them, with the axis: "layer1.0.conv1.weight[0]"
    channels: int
    slots: tuple[Slot, ...]
    exact: bool  # whether cutting channels computes what zeroing them would
    reason: str = ""  # why not exact
    heads: bool = False  # whether the channels are attention heads
    symbol: int = field(default=-1, compare=False)  # of the walk that found it


@dataclass(frozen=True)
class Frozen:
    """An axis of a tensor that must stay whole, or a part of it, and why."""

    tensor: str
    axis: int
    size: int
    reason: str

    @property
    def of_kernel(self) -> bool:
        """Whether these are the positions of a kernel, which are never channels."""
        return self.reason.endswith(KERNEL)


@dataclass(frozen=True)
class Found:
    """What a walk over a program found."""

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    walk: Walk


def channel_groups(program: Program) -> list[Group]:
    """Return every group of channels that can be cut, in the order of the network."""
    return list(find(program).groups)


def find(program: Program) -> Found:
    """Return the groups and the frozen axes of a program."""
    state = describe(program)
    algebra, places = state.algebra, defaultdict[int, list[tuple[str, int, Term]]](list)
    frozen = []
    for name, axes in state.tensors.items():
        for axis, term in enumerate(axes):
            leaves = list(dict.fromkeys(algebra.leaves(term)))
            for leaf in leaves:
                places[leaf].append((name, axis, term))
            frozen += list(_frozen(algebra, name, axis, leaves))
    groups = [_group(algebra, leaf, found) for leaf, found in places.items() if leaf not in algebra.frozen]
    return Found(tuple(_in_network_order(program, groups)), tuple(frozen), state)


def _frozen(algebra: Algebra, name: str, axis: int, leaves: Iterable[int]) -> Iterator[Frozen]:
    for leaf in leaves:
        if leaf in algebra.frozen:
            yield Frozen(name, axis, algebra.sizes[leaf], algebra.frozen[leaf])


def _group(algebra: Algebra, leaf: int, places: list[tuple[str, int, Term]]) -> Group:
    slots = tuple(Slot(name, axis, algebra.channel_of(term, leaf)) for name, axis, term in places)
    first = next((slot for slot in slots if slot.axis == 0), slots[0])
    name = f"{first.tensor}[{first.axis}]" + _part(first, algebra.sizes[leaf])
    reason = algebra.inexact.get(leaf, "") or next((_TWICE for _, _, term in places if algebra.is_squared(term, leaf)), "")
    return Group(name, algebra.sizes[leaf], slots, not reason, reason, leaf in algebra.heads, leaf)


def _part(slot: Slot, channels: int) -> str:
    """Say which positions of its axis a group occupies, where it does not occupy all of them one by one."""
    if np.array_equal(slot.channel, np.arange(channels)):
        return ""
    own = np.flatnonzero(slot.channel >= 0)
    contiguous = len(own) == channels and np.array_equal(slot.channel[own], np.arange(channels)) and own[-1] - own[0] + 1 == channels
    step = int(np.count_nonzero(slot.channel == 0))
    return f"[{own[0]}:{own[-1] + 1}]" if contiguous else f"/{step}@{int(np.flatnonzero(slot.channel == 1)[0]) if channels > 1 else 0}"


def _in_network_order(program: Program, groups: list[Group]) -> list[Group]:
    order = {str(node.target): position for position, node in enumerate(program.graph.nodes) if node.op == "get_attr" for _ in node.users}
    first_use = dict[str, int]()
    for position, node in enumerate(program.graph.nodes):
        for argument in node.all_input_nodes:
            if argument.op == "get_attr":
                first_use.setdefault(str(argument.target), position)
    return sorted(groups, key=lambda group: min(first_use.get(slot.tensor, len(order)) for slot in group.slots))
