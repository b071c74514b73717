"""Accuracy: the share of labels that the network ranks first, or among the first five, overall and per class; and perplexity.

A label belongs to an example, or to a position of a sequence: the token that follows there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from laconic.errors import LaconicError

if TYPE_CHECKING:  # it imports torch, which scoring an exported file does not need
    from laconic.data.dataset import Split

Predict: TypeAlias = Callable[[NDArray[Any]], NDArray[np.float32]]
"""A network under measurement: inputs of shape `(batch, ...)` in, scores of shape `(batch, classes)` out.

Of sequences the scores are `(batch, positions, classes)`.
"""

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many examples are done, of how many."""


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] of labels that were found."""

    top1: float
    top5: float | None  # None where there are 5 classes or fewer
    per_class: dict[int, float]  # top-1 among the examples of each class that occurs; of sequences there are none
    examples: int
    correct: NDArray[np.bool_] = field(repr=False, compare=False)  # as the labels: top-1, in the order of the split; for paired comparisons
    perplexity: float | None = None  # of sequences: the exponential of the mean cross-entropy of a label, in nats


@dataclass(frozen=True)
class Ranked:
    """Where a network puts the labels of a split."""

    ranks: NDArray[np.int64]  # as the labels: how many classes come before each; 0: it is the network's answer
    nats: NDArray[np.float64]  # as the labels: minus the logarithm of the probability that the softmax of the scores gives each
    classes: int


def accuracy(predict: Predict, split: "Split", batch: int = 64, progress: Progress | None = None) -> Accuracy:
    """Score a network on every example of `split`, `batch` at a time.

    Raises:
        LaconicError: the network's output is not finite, has no class axis, or has fewer classes than the labels.
    """
    return tally(ranked(predict, split, batch, progress), split.labels)


def ranked(predict: Predict, split: "Split", batch: int = 64, progress: Progress | None = None) -> Ranked:
    """Run a network on every example of `split` and find the labels among its scores.

    Among equal scores the lower class number goes first, as in `argmax`.

    Raises:
        LaconicError: the network's output is not finite, has no class axis, or has fewer classes than the labels.
    """
    ranks, nats = np.empty(split.labels.shape, np.int64), np.empty(split.labels.shape)
    for start in range(0, len(split), batch):
        some = slice(start, min(start + batch, len(split)))
        labels = np.asarray(split.labels[some], dtype=np.int64)
        scores = _checked(np.asarray(predict(split.arrays(some))), labels, start)
        ranks[some], nats[some] = _before(scores, labels), _nats(scores, labels)
        if progress:
            progress(some.stop, len(split))
    return Ranked(ranks, nats, int(scores.shape[-1]))


def tally(found: Ranked, labels: NDArray[Any]) -> Accuracy:
    """Count what `ranked` found; `labels` are those of the same examples."""
    correct, sequences = found.ranks == 0, labels.ndim > 1
    return Accuracy(
        top1=float(correct.mean()),
        top5=float((found.ranks < 5).mean()) if found.classes > 5 else None,
        per_class={} if sequences else {int(label): float(correct[labels == label].mean()) for label in np.unique(labels)},
        examples=len(labels),
        correct=correct,
        perplexity=float(np.exp(found.nats.mean())) if sequences else None,
    )


def _before(scores: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the classes that come before each label."""
    own = np.take_along_axis(scores, labels[..., None], axis=-1)
    tied_first = np.arange(scores.shape[-1]) < labels[..., None]
    before: NDArray[np.int64] = ((scores > own) | ((scores == own) & tied_first)).sum(axis=-1)
    return before


def _nats(scores: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return minus the logarithm of the softmax at each label."""
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    own = np.take_along_axis(shifted, labels[..., None], axis=-1)[..., 0]
    nats: NDArray[np.float64] = np.log(np.exp(shifted).sum(axis=-1)) - own
    return nats


def _checked(scores: NDArray[Any], labels: NDArray[np.int64], start: int) -> NDArray[Any]:
    """Return `scores` if they can be scored against `labels`, which belong to the examples from number `start`."""
    if scores.shape[:-1] != labels.shape:
        per = "example" if labels.ndim == 1 else "position"
        raise LaconicError(f"the network must return one row of class scores per {per}; {len(labels)} examples gave {scores.shape}")
    if labels.min() < 0 or labels.max() >= scores.shape[-1]:
        raise LaconicError(f"the network has {scores.shape[-1]} classes, but labels go from {labels.min()} to {labels.max()}")
    bad = np.flatnonzero(~np.isfinite(scores).reshape(len(scores), -1).all(axis=1))
    if bad.size:
        raise LaconicError(
            f"the network's output is NaN or infinite for {bad.size} of {len(labels)} examples, first number {start + bad[0]}"
        )
    return scores
