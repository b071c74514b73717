"""The grids of activations, from what a network computes on calibration inputs."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor, fx

from laconic.errors import LaconicError
from laconic.numeric.ranges import Histogram, divergence_range, mean_square_range, percentile_range
from laconic.numeric.rounding import asymmetric_grid
from laconic.program import Program, Uniform
from laconic.program.observe import observe
from laconic.program.walk import where

Ranges: TypeAlias = Literal["min-max", "percentile", "mean-square", "kl"]

_BINS = 2048


def grid_of(histogram: Histogram, bits: int, ranges: Ranges, percentile: float) -> Uniform:
    """Return an unsigned grid of so many bits for values that are spread like this."""
    low, high = (torch.tensor(limit) for limit in _range(histogram, bits, ranges, percentile))
    return Uniform(*asymmetric_grid(low, high, bits), bits, signed=False)


def _range(histogram: Histogram, bits: int, ranges: Ranges, percentile: float) -> tuple[float, float]:
    match ranges:
        case "min-max":
            return histogram.low, histogram.high
        case "percentile":
            return percentile_range(histogram, percentile)
        case "mean-square":
            return mean_square_range(histogram, bits)
        case "kl":
            return divergence_range(histogram, bits)


def histograms_of(
    program: Program, nodes: list[fx.Node], inputs: list[tuple[Tensor, ...]], needs_counts: bool = True
) -> dict[fx.Node, Histogram]:
    """Return the range of the values at each node over `inputs` and, in a second run, how they are spread in it.

    Raises:
        LaconicError: values that are not finite, or all zero.
    """
    limits: dict[fx.Node, tuple[float, float]] = {}

    def widen(node: fx.Node, value: Tensor) -> None:
        low, high = (float(limit) for limit in torch.aminmax(value.float()))
        before = limits.get(node, (low, high))
        limits[node] = (min(low, before[0]), max(high, before[1]))

    observe(program, inputs, nodes, widen)
    for node, (low, high) in limits.items():
        _check(node, low, high)
    histograms = {node: Histogram(low, high, torch.zeros(_BINS)) for node, (low, high) in limits.items()}
    if needs_counts:
        observe(program, inputs, nodes, lambda node, value: histograms[node].add(value))
    return histograms


def _check(node: fx.Node, low: float, high: float) -> None:
    if not torch.isfinite(torch.tensor([low, high])).all():
        raise LaconicError(f"on the calibration inputs the values of {where(node)} are not finite; check the weights and the data")
    if low == high == 0:
        raise LaconicError(
            f"on all calibration inputs the values of {where(node)} are zero, which says nothing about their range; "
            "take other calibration inputs, or exclude the layers around it"
        )
