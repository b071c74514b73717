"""Wanda: prune by weight and activation, the magnitude of a weight times the norm of its input, compared within each output.

Source: M. Sun, Z. Liu, A. Bair, J. Z. Kolter, "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024, eq. 1 and
section 3. No weight is adjusted. Where the share does not come out even, the lowest scores decide which outputs lose one more.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from laconic.program.sequential import Turn
from laconic.prune.calibrated import Calibrated, Pruned, along_inputs, in_groups
from laconic.prune.selection import lowest_in_groups, lowest_of_rows
from laconic.step import step


def scores(weight: Tensor, energies: Tensor) -> Tensor:
    """Return |w| times the norm of the input (eq. 1), up to a factor that all entries share.

    Args:
        weight: (groups, out, in).
        energies: (groups, in): mean squares of the inputs.
    """
    return weight.abs() * energies.sqrt().to(weight)[:, None]


@step
class Wanda(Calibrated):
    """Zero the weights that are small beside how large their inputs are, and hold them at zero: on calibration inputs, in one pass.

    Smaller (bytes in packed storage), not faster: mainstream runtimes multiply by zeros as by any number.
    """

    def _pruner(self, turn: Turn, held: Tensor) -> Callable[[int], Pruned]:
        weight = turn.dense.reshape(held.shape)
        found = scores(weight, turn.energies())
        if self.pattern is None:
            rows = found.flatten(0, 1), held.flatten(0, 1)
            return lambda count: _without(weight, lowest_of_rows(*rows, count).reshape(held.shape))
        kept, of = self.pattern
        marked = lowest_in_groups(in_groups(found, turn.layer, of), in_groups(held, turn.layer, of), kept)
        zeroed = torch.empty_like(held)
        zeroed[:, :, along_inputs(turn.layer)] = marked.flatten(2)
        return lambda count: _without(weight, zeroed)


def _without(weight: Tensor, zeroed: Tensor) -> Pruned:
    return Pruned(weight.masked_fill(zeroed, 0), zeroed)
