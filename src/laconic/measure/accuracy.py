"""Accuracy: the share of examples whose label the network ranks first, or among the first five, overall and per class."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from laconic.errors import LaconicError

if TYPE_CHECKING:  # it imports torch, which scoring an exported file does not need
    from laconic.data.dataset import Split

Predict: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A network under measurement: inputs of shape `(batch, ...)` in, scores of shape `(batch, classes)` out."""

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many examples are done, of how many."""


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] of examples that were classified correctly."""

    top1: float
    top5: float | None  # None where there are 5 classes or fewer
    per_class: dict[int, float]  # top-1 among the examples of each class that occurs
    examples: int
    correct: NDArray[np.bool_] = field(repr=False, compare=False)  # (examples,): top-1, in the order of the split; for paired comparisons


def accuracy(predict: Predict, split: "Split", batch: int = 64, progress: Progress | None = None) -> Accuracy:
    """Score a network on every example of `split`, `batch` at a time.

    Raises:
        LaconicError: the network's output is not finite, has no class axis, or has fewer classes than the labels.
    """
    return tally(*ranks(predict, split, batch, progress), split.labels)


def ranks(predict: Predict, split: "Split", batch: int = 64, progress: Progress | None = None) -> tuple[NDArray[np.int64], int]:
    """Return how many classes the network puts before the label of each example, and the number of classes.

    Among equal scores the lower class number goes first, as in `argmax`; so 0 means that the label is the network's answer.

    Raises:
        LaconicError: the network's output is not finite, has no class axis, or has fewer classes than the labels.
    """
    found = np.empty(len(split), dtype=np.int64)
    for start in range(0, len(split), batch):
        some = slice(start, min(start + batch, len(split)))
        labels = np.asarray(split.labels[some], dtype=np.int64)
        scores = _checked(np.asarray(predict(split.arrays(some))), labels, start)
        found[some] = _before(scores, labels)
        if progress:
            progress(some.stop, len(split))
    return found, int(scores.shape[1])


def tally(ranks: NDArray[np.int64], classes: int, labels: NDArray[Any]) -> Accuracy:
    """Count what `ranks` found; `labels` are those of the same examples."""
    correct = ranks == 0
    return Accuracy(
        top1=float(correct.mean()),
        top5=float((ranks < 5).mean()) if classes > 5 else None,
        per_class={int(label): float(correct[labels == label].mean()) for label in np.unique(labels)},
        examples=len(ranks),
        correct=correct,
    )


def _before(scores: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the classes that come before each label."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    tied_first = np.arange(scores.shape[1]) < labels[:, None]
    before: NDArray[np.int64] = ((scores > own) | ((scores == own) & tied_first)).sum(axis=1)
    return before


def _checked(scores: NDArray[Any], labels: NDArray[np.int64], start: int) -> NDArray[Any]:
    """Return `scores` if they can be scored against `labels`, which belong to the examples from number `start`."""
    if scores.ndim != 2 or len(scores) != len(labels):
        raise LaconicError(f"the network must return one row of class scores per example; {len(labels)} examples gave {scores.shape}")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise LaconicError(f"the network has {scores.shape[1]} classes, but labels go from {labels.min()} to {labels.max()}")
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if bad.size:
        raise LaconicError(
            f"the network's output is NaN or infinite for {bad.size} of {len(labels)} examples, first number {start + bad[0]}"
        )
    return scores
