"""How the values of channels are spread, where no values were seen: every channel at the points of a normal distribution."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from laconic.numeric.ranges import Histogram

_REACH = 6.0  # standard deviations on each side (M. Nagel et al., ICCV 2019, section 5: n = 6)
_POINTS = torch.linspace(-_REACH, _REACH, 481)
_SHARES = torch.softmax(-_POINTS.square() / 2, 0)  # of the values that lie at each point
_BINS = 2048


@dataclass(frozen=True)
class Spread:
    """Values of which the shares of a normal distribution lie at its points; what is done to the values is done to the points."""

    values: Tensor  # (channels, points)

    @classmethod
    def normal(cls, mean: Tensor, deviation: Tensor) -> "Spread":
        """Return normal distributions, one for each channel of `mean` and `deviation`."""
        return cls(mean[:, None] + deviation[:, None] * _POINTS.to(mean))

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return len(self.values)

    @property
    def mean(self) -> Tensor:
        """The mean of each channel."""
        return self.values @ _SHARES.to(self.values)

    @property
    def variance(self) -> Tensor:
        """The variance of each channel."""
        return (self.values - self.mean[:, None]).square() @ _SHARES.to(self.values)

    def through(self, function: Callable[[Tensor], Tensor]) -> "Spread":
        """Return what a function of single values makes of them."""
        return Spread(function(self.values))

    def plus(self, other: "Spread") -> "Spread":
        """Return the sum with values that are independent of these, taken as normal between its extremes."""
        total = Spread.normal(self.mean + other.mean, (self.variance + other.variance).sqrt())
        low, high = (getattr(self.values, side)(1) + getattr(other.values, side)(1) for side in ("amin", "amax"))
        return total.through(lambda values: values.clamp(low[:, None], high[:, None]))

    def weighted(self, weight: Tensor, bias: Tensor | None) -> "Spread":
        """Return weighted sums of independent values of these channels, taken as normal.

        Args:
            weight: as `weighted_sums` takes it.
            bias: (outputs,).
        """
        mean, variance = weighted_sums(weight, self.mean), weighted_sums(weight.square(), self.variance)
        return Spread.normal(mean if bias is None else mean + bias, variance.sqrt())

    def histogram(self) -> Histogram:
        """Return how often a value of any channel falls into each of equal bins between the extremes."""
        low, high = float(self.values.min()), float(self.values.max())
        width = (high - low) / _BINS or 1.0
        bins = ((self.values - low) / width).long().clamp(max=_BINS - 1)
        counts = torch.zeros(_BINS, dtype=torch.float64)
        counts.index_add_(0, bins.flatten().cpu(), _SHARES.double().repeat(self.channels))
        return Histogram(low, high, counts.float())


def weighted_sums(weight: Tensor, values: Tensor) -> Tensor:
    """Return what each output sums up, (outputs,).

    Args:
        weight: (outputs, channels / groups, taps): every output reads the channels of its group, each `taps` times.
        values: (channels,), one for each channel.
    """
    groups = len(values) // weight.shape[1]
    rows = weight.sum(-1).reshape(groups, -1, weight.shape[1])
    return (rows @ values.reshape(groups, -1, 1)).flatten()
