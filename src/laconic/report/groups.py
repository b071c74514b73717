"""A network's channel groups and frozen axes as tables for the terminal."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from laconic.report.units import bytes_text, count_text

if TYPE_CHECKING:
    from laconic.anatomy import Anatomy, Part
    from laconic.program.groups import Frozen

_MOST_PLACES = 8  # of a group or of a reason; --json lists all


def groups_table(anatomy: "Anatomy") -> Table:
    """Return every group in the order of the network: how many channels, what they carry, and where they live."""
    shapes = ", ".join(f"{' x '.join(map(str, each.shape))} {str(each.dtype).removeprefix('torch.')}" for each in anatomy.inputs)
    title = f"{anatomy.model}: {count_text(anatomy.macs)} MACs, {bytes_text(anatomy.bytes)}, for inputs of {shapes}"
    table = Table(title=Text(title), title_justify="left", caption=Text(_caption(anatomy)), caption_justify="left", show_lines=True)
    table.add_column("group, and where it lives", overflow="fold")
    for column in ("channels", "MACs", "of one\nchannel", "bytes", "of one\nchannel", "exact"):
        table.add_column(column, justify="left" if column == "exact" else "right", no_wrap=True)
    for part in anatomy.parts:
        table.add_row(*_row(part, anatomy))
    return table


def frozen_table(anatomy: "Anatomy") -> Table:
    """Return what must stay whole by what froze it; positions of kernels are only counted."""
    kernels = sum(each.of_kernel for each in anatomy.frozen)
    table = Table(title=Text("frozen: what must stay whole"), title_justify="left", show_lines=True)
    table.add_column("what froze it", overflow="fold")
    table.add_column("axes", justify="right")
    table.add_column("where", overflow="fold")
    reasons = dict[str, "list[Frozen]"]()
    for each in anatomy.frozen:
        if not each.of_kernel:
            reasons.setdefault(_short(each.reason), []).append(each)
    for reason, frozen in reasons.items():
        table.add_row(Text(reason), str(len(frozen)), Text(_places((each.tensor, each.axis) for each in frozen)))
    if kernels:
        table.add_row("positions of kernels", str(kernels), "")
    return table


def _row(part: "Part", anatomy: "Anatomy") -> tuple[str | Text, ...]:
    group = part.group
    share = f"\n{part.macs / anatomy.macs:.1%}" if anatomy.macs else ""
    size = f"\n{part.bytes / anatomy.bytes:.1%}" if anatomy.bytes else ""
    name = Text(group.name, style="bold").append(f"\n{_places((slot.tensor, slot.axis) for slot in group.slots)}", style="not bold dim")
    if group.reason:
        name.append(f"\n{_short(group.reason)}", style="not bold yellow")
    return (
        name,
        f"{group.channels}\nheads" if group.heads else str(group.channels),
        count_text(part.macs) + share,
        count_text(part.macs_per_channel),
        bytes_text(part.bytes) + size,
        bytes_text(part.bytes_per_channel),
        Text("yes") if group.exact else Text("no", style="yellow"),
    )


def _caption(anatomy: "Anatomy") -> str:
    parts = anatomy.parts
    exact = sum(part.group.exact for part in parts)
    return (
        f"{len(parts)} groups, {exact} exact. MACs and bytes: all that a group's channels take part in, and what the first channel to be "
        "cut takes with it. A product counts for the group of its rows and for that of its columns. [0] is an axis; /9@1: every channel "
        "has 9 positions there, and channel 1 starts at position 1; [16:32]: the channels are these positions."
    )


def _places(places: Iterable[tuple[str, int]]) -> str:
    """Write (tensor, axis) pairs by module, layers of one kind together: `blocks.*.mlp.fc1[1] x12`."""
    kinds = dict[str, list[str]]()
    for place in dict.fromkeys(f"{_module(tensor)}[{axis}]" for tensor, axis in places):
        kinds.setdefault(re.sub(r"(?<![^.])\d+(?=[.\[])", "*", place), []).append(place)
    texts = [f"{kind} x{len(alike)}" if len(alike) > 1 else alike[0] for kind, alike in kinds.items()]
    more = f", and {len(texts) - _MOST_PLACES} more" if len(texts) > _MOST_PLACES else ""
    return ", ".join(texts[:_MOST_PLACES]) + more


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


def _short(reason: str) -> str:
    """Leave out the folders above packages and above the working folder."""
    text = re.sub(r"\S*/site-packages/", "", reason.replace(f"{Path.cwd()}/", ""))
    return re.sub(r", in \w+(?=:)", "", text)
