"""What weights and activations become at each of the widths that they may get."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from laconic.program import Uniform, Weight
from laconic.program.forms import kept
from laconic.program.layers import layer_at
from laconic.program.represent import representations
from laconic.quantize.compensate import compensator
from laconic.quantize.placement import Sites


@dataclass(frozen=True)
class Candidates:
    """What is to get a width, the widths that there are, and the grids that they stand for."""

    sites: Sites  # of a float program
    weight_bits: tuple[int, ...]
    activation_bits: tuple[int, ...]
    weight_grid: Callable[[Weight, int], Uniform]
    value_grid: Callable[[fx.Node, int], Uniform]
    learned: bool  # whether roundings of weights will be learned, or to the nearest level
    corrected: bool  # whether layers will get their mean outputs back

    def nearest(self, weight: Weight, bits: int) -> Tensor:
        """Return a weight rounded to the nearest levels."""
        with torch.no_grad():
            rounded: Tensor = self.weight_grid(weight, bits)(weight.value)
        return rounded

    def rounded(self, weight: Weight, values: dict[fx.Node, Any]) -> Callable[[int], Tensor]:
        """Return what rounds a weight to so many bits, nearly as well as it will be.

        Where roundings will be learned, they are taken by curvature here, which is as near in its result and takes a fraction of the time.

        Args:
            weight: what to round.
            values: what `stepwise` gives before its layer, on inputs to round by.
        """
        layer = layer_at(weight.readers[0]) if len(weight.readers) == 1 else None
        if not self.learned or layer is None:
            return lambda bits: self.nearest(weight, bits)
        keep = kept(representations(self.sites.program, weight.name))
        by_curvature = compensator(layer, weight.value, values[layer.source], keep)
        return lambda bits: by_curvature(self.weight_grid(weight, bits))
