"""Zero channels in place of cutting them: the same function for exact groups, at unchanged shapes. It is cut's test of truth."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from laconic.program.groups import Slot, channel_groups
from laconic.program.program import Program, holder, read


def zero(program: Program, keep: Mapping[str, Sequence[int]]) -> Program:
    """Set to zero, in place, every weight that makes or reads a channel that is not kept.

    What reads a channel then takes nothing from it, whatever functions lie between; and channels that multiply each other (queries and
    keys), which no weight reads, are zero where they are made.

    Args:
        program: the program.
        keep: by group name, the channels that stay.

    Returns:
        The program.
    """
    for group in channel_groups(program):
        if group.name in keep:
            gone = np.setdiff1d(np.arange(group.channels), keep[group.name])
            for slot in group.slots:
                _zero_slot(program, slot, gone)
    return program


def _zero_slot(program: Program, slot: Slot, gone: NDArray[np.int64]) -> None:
    module, attribute = holder(program, slot.tensor)
    positions = torch.from_numpy(np.flatnonzero(np.isin(slot.channel, gone)))
    value = read(program, slot.tensor).detach().clone()
    value.index_fill_(slot.axis, positions.to(value.device), 0)
    with torch.no_grad():
        target = getattr(module, attribute)
        target.copy_(value) if target.is_leaf else setattr(module, attribute, value)
