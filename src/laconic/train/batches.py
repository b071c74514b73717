"""What a training step is computed on: examples and what belongs to them, drawn batch by batch."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laconic.data.dataset import Augment, Split

Batches: TypeAlias = Callable[[NDArray[np.int64], int, torch.Generator], tuple[Tensor, ...]]
"""Maps (indices of examples, number of the epoch from 0, the epoch's generator) to inputs `(n, ...)`, labels, and what else the loss takes.

It is called under autocast. What it answers for an index may depend on the epoch and the generator only.
"""


class Drawn:
    """Examples of a split with their labels, changed at random where it can be."""

    def __init__(self, split: Split, augment: Augment | None) -> None:
        self._split, self._augment = split, augment

    def __call__(self, indices: NDArray[np.int64], epoch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return inputs and labels."""
        inputs, labels = self._split.batch(indices)
        return (self._augment(inputs, generator) if self._augment else inputs), labels
