"""What a network is made of, for one who decides what to cut: its channel groups with what each carries, and what must stay whole."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from laconic import data, zoo
from laconic.context import Context
from laconic.errors import LaconicError
from laconic.job import Origin
from laconic.program import Input, Program, capture, cost, load
from laconic.program.groups import Frozen, Group, Slot, find
from laconic.program.walk import Walk

SCHEMA = 1
"""Version of the JSON form; fields may be added within one."""


@dataclass(frozen=True)
class Part:
    """A channel group and what it carries.

    It carries the multiply-accumulates in which its channels take part and the bytes of the tensors' entries that belong to them: all that
    would go with its last channel. A product belongs to the group of its rows and to that of its columns, so that the groups' shares
    add up to more than the network. `per_channel` is what the first channel that is cut takes with it, all other groups being whole.
    """

    group: Group
    macs: int
    macs_per_channel: int
    bytes: int
    bytes_per_channel: int


@dataclass(frozen=True)
class Anatomy:
    """A network's groups and frozen axes."""

    model: str
    inputs: tuple[Input, ...]
    macs: int  # of one example
    bytes: int  # of every tensor in its deployable form
    parts: tuple[Part, ...]  # in the order of the network
    frozen: tuple[Frozen, ...]


def anatomy(origin: Origin, written: str | None = None) -> Anatomy:
    """Take a network apart.

    Args:
        origin: the network; its data, where given, show the inputs.
        written: the shapes of its inputs, see `zoo.example`; None: of the data, or what is known of the network.

    Raises:
        LaconicError: an unknown network, weights that do not fit, inputs that are not known, or a network that cannot be captured.
    """
    return taken_apart(origin.model, _program(origin, written))


def taken_apart(model: str, program: Program) -> Anatomy:
    """Return the groups and frozen axes of a program; `model` is what the user calls it."""
    found = find(program)
    stored, macs = cost.stored_bytes(found.walk), _macs(found.walk)
    parts = tuple(_part(group, found.walk, stored, macs) for group in found.groups)
    return Anatomy(model, program.inputs, macs, sum(stored.values()), parts, found.frozen)


def plain(anatomy: Anatomy) -> dict[str, Any]:
    """Return an anatomy as plain data, for JSON."""
    return {
        "schema": SCHEMA,
        "model": anatomy.model,
        "inputs": [
            {"name": each.name, "shape": list(each.shape), "dtype": str(each.dtype).removeprefix("torch.")} for each in anatomy.inputs
        ],
        "macs": anatomy.macs,
        "bytes": anatomy.bytes,
        "groups": [_plain_part(part) for part in anatomy.parts],
        "frozen": [{"tensor": each.tensor, "axis": each.axis, "size": each.size, "reason": each.reason} for each in anatomy.frozen],
    }


def _program(origin: Origin, written: str | None) -> Program:
    if origin.model.endswith(".safetensors"):
        return load(Path(origin.model))
    if origin.data and written is not None:
        raise LaconicError("--data and --input both say what the network takes; give one of them")
    model = zoo.load(origin.model, origin.weights)
    if origin.data:
        example = Context(data.split(data.load(origin.data, origin.data_root), origin.seed)).example()
    else:
        example = zoo.example(origin.model, model, written)
    try:
        return capture(model, example)
    except LaconicError as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in example)
        raise LaconicError(f"{error}. It was given inputs of shape {shapes}") from error


def _part(group: Group, walk: Walk, stored: dict[str, int], macs: int) -> Part:
    without_all, without_one = (macs - _macs(walk, {group.symbol: range(left)}) for left in (0, group.channels - 1))
    return Part(group, without_all, without_one, _gone(group, stored, group.channels), _gone(group, stored, 1))


def _macs(walk: Walk, keep: dict[int, range] | None = None) -> int:
    return sum(cost.macs(walk, keep).values())


def _gone(group: Group, stored: dict[str, int], channels: int) -> int:
    """Return the bytes that go with so many channels of a group; where it has two axes of one tensor, both become shorter."""
    axes = dict[str, list[Slot]]()
    for slot in group.slots:
        axes.setdefault(slot.tensor, []).append(slot)
    left = {name: prod(1 - _share(slot) * channels / group.channels for slot in slots) for name, slots in axes.items()}
    return round(sum(stored[name] * (1 - share) for name, share in left.items()))


def _share(slot: Slot) -> float:
    return float((slot.channel >= 0).mean())


def _plain_part(part: Part) -> dict[str, Any]:
    group = part.group
    return {
        "name": group.name,
        "channels": group.channels,
        "heads": group.heads,
        "exact": group.exact,
        "reason": group.reason,
        "macs": part.macs,
        "macs_per_channel": part.macs_per_channel,
        "bytes": part.bytes,
        "bytes_per_channel": part.bytes_per_channel,
        "slots": [_plain_slot(slot) for slot in group.slots],
    }


def _plain_slot(slot: Slot) -> dict[str, Any]:
    positions = int((slot.channel >= 0).sum())
    return {"tensor": slot.tensor, "axis": slot.axis, "size": len(slot.channel), "positions": positions}
