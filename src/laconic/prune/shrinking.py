"""Channels that fade while a network trains, and are then cut: their decay grows up to there.

Source: H. Wang, C. Qin, Y. Zhang, Y. Fu, "Neural Pruning via Growing Regularization", ICLR 2021, section 3.2 (GReg-1): an L2 penalty that
grows on the weights to be removed. Here it is a decay of its own, apart from the gradient (I. Loshchilov, F. Hutter, "Decoupled Weight
Decay Regularization", ICLR 2019), so that it does not depend on the optimizer.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from laconic.program import Program, read
from laconic.program.cut import KeptChannels
from laconic.program.groups import channel_groups


class Shrinking:
    """Called after every batch of training: decays the doomed channels, and half way says that they are to be cut."""

    def __init__(self, program: Program, keep: KeptChannels, strength: float) -> None:
        """Name the channels to fade.

        Args:
            program: the program that trains.
            keep: by group, the channels that stay.
            strength: share that a doomed weight loses in the last batch before the cut; it grows evenly up to there.
        """
        self.strength = strength
        self.doomed = hashlib.sha256(repr(sorted((name, list(kept)) for name, kept in keep.items())).encode()).hexdigest()
        self._program, self._keep = program, {name: list(kept) for name, kept in keep.items()}
        self._positions = _doomed(program, keep)

    def __call__(self, done: int, total: int) -> KeptChannels | None:
        """Decay, or return the channels to cut to."""
        cut_at = max(1, total // 2)
        if done < cut_at:
            self._decay(self.strength * done / cut_at)
        return self._keep if done == cut_at else None

    @torch.no_grad()
    def _decay(self, share: float) -> None:
        for name, axes in self._positions.items():
            value = read(self._program, name)
            for axis, positions in axes:
                index = positions.to(value.device)
                value.index_copy_(axis, index, value.index_select(axis, index) * (1 - share))


def _doomed(program: Program, keep: Mapping[str, Sequence[int]]) -> dict[str, list[tuple[int, torch.Tensor]]]:
    """Return, by parameter, the axes and positions of the channels that go, on first axes: where most layers make them."""
    parameters, found = dict(program.named_parameters(remove_duplicate=False)), dict[str, list[tuple[int, torch.Tensor]]]()
    for group in channel_groups(program):
        gone = np.setdiff1d(np.arange(group.channels), keep.get(group.name, range(group.channels)))
        for slot in group.slots if len(gone) else ():
            if slot.tensor in parameters and (slot.axis == 0 or parameters[slot.tensor].ndim == 1):
                positions = torch.from_numpy(np.flatnonzero(np.isin(slot.channel, gone)))
                found.setdefault(slot.tensor, []).append((slot.axis, positions))
    return found
