"""Second moments of a layer's inputs, and how far they can be trusted when few examples were seen.

Source: J. Schaefer, K. Strimmer, "A Shrinkage Approach to Large-Scale Covariance Matrix Estimation and Implications for Functional
Genomics", Statistical Applications in Genetics and Molecular Biology 4(1), 2005, section 2.4, target D: moments of different inputs are
drawn to zero by the share that makes the expected squared error least. Here a sample is what one example contributes, the mean over its
positions: positions of one example are not independent.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """The mean of `rows.T @ rows` over examples, as they come."""

    total: Tensor  # (in, in), float64: sum over examples of the mean over their positions
    squares: float = 0.0  # sum over examples of the squared elements off the diagonal of theirs
    examples: int = 0

    @classmethod
    def of(cls, inputs: int) -> "Moments":
        """Return the moments of so many inputs, with nothing seen yet."""
        return cls(torch.zeros(inputs, inputs, dtype=torch.float64))

    def add(self, rows: Tensor, examples: int) -> None:
        """Take examples in: (examples * positions, in), the positions of one example next to each other."""
        each = rows.detach().reshape(examples, -1, rows.shape[1])
        positions, inputs = each.shape[1:]
        if positions < inputs:
            total, products = rows.T @ rows, each @ each.mT  # as large as a product of each example's would be, off what is shared
        else:
            products = each.mT @ each
            total = products.sum(0)
        own = each.square().sum(1)  # the diagonal of each example's
        off = products.double().square().sum() - own.double().square().sum()
        self.total += total.double().cpu() / positions
        self.squares += float(off) / positions**2
        self.examples += examples

    @property
    def mean(self) -> Tensor:
        """The moments as they were seen: (in, in)."""
        return self.total / self.examples

    @property
    def doubt(self) -> float:
        """The share, 0 to 1, that the moments of different inputs are to be drawn to zero: 1 where one example was seen."""
        mean = self.mean
        off = float(mean.square().sum() - mean.diagonal().square().sum())
        if self.examples < 2 or off <= 0:
            return 1.0
        variance = (self.squares / self.examples - off) / (self.examples - 1)
        return min(1.0, max(0.0, variance / off))

    @property
    def shrunk(self) -> Tensor:
        """The moments with those of different inputs drawn to zero by as much as they are in doubt: (in, in)."""
        mean, doubt = self.mean, self.doubt
        return (1 - doubt) * mean + doubt * mean.diagonal().diag()
