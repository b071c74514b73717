"""Which range of values a grid should cover: from the extremes, or from a histogram of what was seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from laconic.numeric.rounding import asymmetric_grid


@dataclass
class Histogram:
    """How often values fell into equal bins between two limits."""

    low: float
    high: float
    counts: Tensor  # (bins,)

    def add(self, values: Tensor) -> None:
        """Count `values` of any shape."""
        self.counts += torch.histc(values.float(), len(self.counts), self.low, self.high).to(self.counts)

    @property
    def centers(self) -> Tensor:
        """The middle of each bin, shape (bins,)."""
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (torch.arange(len(self.counts)) + 0.5)


def percentile_range(histogram: Histogram, share: float) -> tuple[float, float]:
    """Return the range that leaves `(1 - share) / 2` of the values outside on each side (R. Wu et al., arXiv:2004.09602, section 3.3).

    A side whose extreme is 0.0, as after a ReLU, is kept, and the whole rest is cut on the other side.
    """
    total = torch.cumsum(histogram.counts.double(), 0)
    total = total / total[-1]
    outside = (1 - share) / (2 if histogram.low < 0 < histogram.high else 1)
    width = (histogram.high - histogram.low) / len(histogram.counts)
    first, last = int((total <= outside).sum()), int((total < 1 - outside).sum())
    low = histogram.low + first * width if histogram.low < 0 else histogram.low
    high = histogram.low + (last + 1) * width if histogram.high > 0 else histogram.high
    return low, min(high, histogram.high)


def mean_square_range(histogram: Histogram, bits: int, candidates: int = 40) -> tuple[float, float]:
    """Return the range whose grid has the least mean square error on the histogram.

    Each side is tried at even shares, from 0.2 to 1, of its extreme; one side is searched, then the other, twice (M. Nagel et al.,
    "A White Paper on Neural Network Quantization", arXiv:2106.08295, eq. 15).
    """
    shares = torch.linspace(0.2, 1.0, candidates)
    low, high = torch.tensor(histogram.low), torch.tensor(histogram.high)
    for _ in range(2):
        highs = shares * histogram.high
        high = highs[_errors(histogram, low.expand(candidates), highs, bits).argmin()]
        lows = shares * histogram.low
        low = lows[_errors(histogram, lows, high.expand(candidates), bits).argmin()]
    return float(low), float(high)


def divergence_range(histogram: Histogram, bits: int, candidates: int = 128) -> tuple[float, float]:
    """Return the range, cut at one magnitude on both sides, whose grid keeps most of what the histogram says.

    What is kept is measured by the Kullback-Leibler divergence of the histogram, with all that is cut off in its outermost bins, from
    itself on the levels of the grid (S. Migacz, "8-bit Inference with TensorRT", GTC 2017, slides 19-25 and the pseudocode there). The
    magnitudes are even shares of the largest one, those left out that leave fewer bins than levels.
    """
    largest, best, least = max(-histogram.low, histogram.high), (histogram.low, histogram.high), torch.inf
    for share in torch.linspace(0, 1, candidates + 1)[1:].tolist():
        inside = torch.nonzero(histogram.centers.abs() <= share * largest).ravel()
        if len(inside) >= 2**bits:
            distance = _divergence(histogram.counts.double(), int(inside[0]), int(inside[-1]) + 1, 2**bits)
            if distance < least:
                least, best = distance, (max(histogram.low, -share * largest), min(histogram.high, share * largest))
    return best


def _divergence(counts: Tensor, first: int, end: int, levels: int) -> float:
    """Return the divergence of `counts`, cut to the bins from `first` to `end`, from what `levels` equal steps make of them."""
    kept = counts[first:end]
    cut = kept.clone()
    cut[0] += counts[:first].sum()
    cut[-1] += counts[end:].sum()
    level = torch.arange(len(kept)) * levels // len(kept)
    sums, used = (torch.zeros(levels).double().scatter_add_(0, level, values) for values in (kept, (cut > 0).double()))
    spread = torch.where(cut > 0, (sums / used.clamp_min(1))[level], torch.zeros(()).double())
    p, q = cut / cut.sum(), spread / spread.sum()
    return float((p[p > 0] * torch.log(p[p > 0] / q[p > 0])).sum())


def _errors(histogram: Histogram, lows: Tensor, highs: Tensor, bits: int) -> Tensor:
    """Return the mean square error on the histogram of the grid of each of the ranges, shape (candidates,)."""
    scale, zero_point = asymmetric_grid(lows, highs, bits)
    centers = histogram.centers
    codes = torch.clamp(torch.round(centers / scale[:, None]) + zero_point[:, None], 0, 2**bits - 1)
    levels = (codes - zero_point[:, None]) * scale[:, None]
    return ((levels - centers) ** 2 * histogram.counts).sum(1)
