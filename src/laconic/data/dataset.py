"""Data as arrays: a split is inputs and labels, a data set is its splits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laconic.errors import LaconicError


@runtime_checkable
class DrawnAhead(Protocol):
    """An augmentation whose chance can be drawn for many examples before they are changed."""

    def __call__(self, batch: Tensor, generator: torch.Generator, /) -> Tensor:
        """Draw, and return a changed copy of `batch`."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw what becomes of `count` examples, a row each."""

    def apply(self, batch: Tensor, drawn: Tensor) -> Tensor:
        """Return a changed copy of `batch`, each example by its row of `drawn`."""


Augment: TypeAlias = Callable[[Tensor, torch.Generator], Tensor] | DrawnAhead
"""Changes a float batch `(n, ...)` at random, drawing only from the generator; the shape stays."""


@dataclass(frozen=True)
class Split:
    """Examples with their labels.

    Inputs are kept as they are stored (bytes for images) and become float32 `(inputs - mean) / std` when a batch is drawn. Whole numbers
    wider than a byte, without mean and std, are token ids: they stay whole, int64.
    """

    inputs: NDArray[Any]  # (n, ...), channels first; uint8 or float32; of tokens (n, positions), int16 to int64
    labels: NDArray[Any]  # (n,), class numbers from 0; or what the properties below say
    mean: tuple[float, ...] = ()  # per channel (axis 1), in the unit of `inputs`; empty: inputs are used as they are
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise LaconicError(f"a split needs as many labels as inputs; there are {len(self.inputs)} inputs and {len(self.labels)} labels")
        if len(self.inputs) == 0:
            raise LaconicError("a split needs at least one example; this one is empty")
        if not (self.vectors or self.boxes) and (self.labels.ndim not in (1, 2, 3) or not np.issubdtype(self.labels.dtype, np.integer)):
            came = f"{self.labels.dtype} of shape {self.labels.shape}"
            raise LaconicError(
                "labels must be one whole number per example, or one per position or pixel of it, or float boxes (class, left, top, "
                f"right, bottom), or a vector each; got {came}"
            )
        if len(self.mean) != len(self.std):
            raise LaconicError(f"mean and std need one number per channel each; got {len(self.mean)} and {len(self.std)}")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def limits(self) -> tuple[float, float] | None:
        """The lowest and highest number that a network can be given, from how inputs are stored; None where they are no bytes."""
        if self.inputs.dtype != np.uint8:
            return None
        mean, std = np.array(self.mean or (0.0,)), np.array(self.std or (1.0,))
        return float(((0 - mean) / std).min()), float(((255 - mean) / std).max())

    @property
    def tokens(self) -> bool:
        """Whether the inputs are token ids, whole numbers that are looked up and never computed with."""
        return self.inputs.dtype.kind in "iu" and self.inputs.dtype.itemsize > 1 and not self.mean

    @property
    def sequences(self) -> bool:
        """Whether there is a label for every position of an example: the next token; (n, positions)."""
        return self.labels.ndim == 2 and not self.vectors

    @property
    def maps(self) -> bool:
        """Whether there is a class for every pixel of an example; (n, height, width)."""
        return self.labels.ndim == 3 and not self.boxes

    @property
    def boxes(self) -> bool:
        """Whether there are things to find in an example, each with its class and box; (n, most, 5), float.

        A row is class, left, top, right, bottom, the sides as shares of width and height; rows of class -1 fill up.
        """
        return self.labels.ndim == 3 and self.labels.shape[2] == 5 and self.labels.dtype.kind == "f"

    @property
    def vectors(self) -> bool:
        """Whether what belongs to an example is a vector to come near to, not a class; (n, length), float."""
        return self.labels.ndim == 2 and self.labels.dtype.kind == "f"

    def take(self, indices: Any) -> "Split":
        """Return the examples at `indices` (anything that indexes the first axis of an array)."""
        return replace(self, inputs=self.inputs[indices], labels=self.labels[indices])

    def arrays(self, indices: Any) -> NDArray[Any]:
        """Return the inputs at `indices` as the network takes them: token ids int64, others float32 and normalised."""
        if self.tokens:
            return np.ascontiguousarray(self.inputs[indices], dtype=np.int64)
        batch = np.asarray(self.inputs[indices], dtype=np.float32)
        if self.mean:
            shape = (1, -1) + (1,) * (batch.ndim - 2)
            batch = (batch - np.array(self.mean, np.float32).reshape(shape)) / np.array(self.std, np.float32).reshape(shape)
        return np.ascontiguousarray(batch, dtype=np.float32)

    def batch(self, indices: Any) -> tuple[Tensor, Tensor]:
        """Return the inputs, as `arrays` does, and labels (int64, or float32 where they are) at `indices` as tensors."""
        kind = np.float32 if self.labels.dtype.kind == "f" else np.int64
        return torch.from_numpy(self.arrays(indices)), torch.from_numpy(np.asarray(self.labels[indices], dtype=kind))

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all examples in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))


@dataclass(frozen=True)
class Dataset:
    """The splits of a data set as its makers publish them.

    `train` may be missing (post-training work only); then `calibration` must be there. Only `test` is scored on the receipt.
    """

    test: Split
    train: Split | None = None
    calibration: Split | None = None  # inputs that set ranges; drawn from `train` where the makers name none
    validation: Split | None = None  # selection; cut from `train` where the makers name none
    augment: Augment | None = None  # used in training only
    classes: tuple[str, ...] = field(default=())
    name: str = "data"
    source: str = ""  # where it comes from and under which licence, for the receipt


@dataclass(frozen=True)
class Splits:
    """Four parts with separate duties; no example of `test` is in any other."""

    train: Split | None
    calibration: Split
    validation: Split
    test: Split
    augment: Augment | None = None


def parts(data: Dataset | Splits) -> dict[str, Split]:
    """Return the splits that are there, by name, in the order train, calibration, validation, test."""
    named = {"train": data.train, "calibration": data.calibration, "validation": data.validation, "test": data.test}
    return {name: part for name, part in named.items() if part is not None}
