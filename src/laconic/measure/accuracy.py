"""Accuracy: the share of labels that the network ranks first, or among the first five, overall and per class; and perplexity.

A label belongs to an example, or to a position of a sequence: the token that follows there. Where examples have vectors in place of
labels, what is scored is the cosine between them and the outputs; where every pixel has a class, the mean intersection over union of the
classes; where there are boxes, the mean average precision of the classes at an overlap of a half.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from laconic.errors import LaconicError
from laconic.measure import detection, segmentation

if TYPE_CHECKING:  # it imports torch, which scoring an exported file does not need
    from laconic.data.dataset import Split

Predict: TypeAlias = Callable[[NDArray[Any]], NDArray[np.float32]]
"""A network under measurement: inputs of shape `(batch, ...)` in, scores of shape `(batch, classes)` out.

Of sequences the scores are `(batch, positions, classes)`, of maps `(batch, classes, height, width)`, of boxes as in `measure.detection`.
"""

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many examples are done, of how many."""


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] of labels that were found."""

    top1: float  # of vectors the mean cosine with them; of maps the mean intersection over union; of boxes the mean average precision
    top5: float | None  # None where there are 5 classes or fewer
    per_class: dict[int, float]  # the same of each class that occurs; of sequences and vectors there are none
    examples: int
    perplexity: float | None = None  # of sequences: the exponential of the mean cross-entropy of a label, in nats
    lowest_cosine: float | None = None  # of an example, where examples have vectors
    pixel_accuracy: float | None = None  # of maps: the share of pixels whose class is found
    strict_precision: float | None = None  # of boxes: the mean average precision over overlaps from 0.5 to 0.95


RARE = ("perplexity", "lowest_cosine", "pixel_accuracy", "strict_precision")
"""What only some networks are scored by, beside `top1`."""


def rare(accuracy: Accuracy) -> dict[str, float]:
    """Return those of RARE that apply."""
    found = {name: getattr(accuracy, name) for name in RARE}
    return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Ranked:
    """Where a network puts the labels of a split."""

    ranks: NDArray[np.int64]  # as the labels: how many classes come before each; 0: it is the network's answer
    nats: NDArray[np.float64]  # as the labels: minus the logarithm of the probability that the softmax of the scores gives each
    classes: int


def score_all(predict: Predict, split: "Split", batch: int = 64, progress: Progress | None = None) -> dict[str, NDArray[Any]]:
    """Return what `summary` needs to score a network on every example of `split`, as arrays.

    Raises:
        LaconicError: the network's output is not finite or does not fit the labels.
    """
    if split.vectors:
        return {"cosines": cosines(predict, split, batch, progress)}
    if split.maps or split.boxes:
        return _dense(predict, split, batch, progress)
    found = ranked(predict, split, batch, progress)
    return {"ranks": found.ranks, "nats": found.nats, "classes": np.array(found.classes)}


def summary(found: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> Accuracy:
    """Count what `score_all` found; `labels` are those of the same examples."""
    if "cosines" in found:
        each = found["cosines"]
        return Accuracy(float(each.mean()), None, {}, len(each), lowest_cosine=float(each.min()))
    if "overlaps" in found:
        shares = segmentation.intersection_over_union(found["overlaps"])
        pixels = segmentation.pixel_accuracy(found["overlaps"])
        return Accuracy(float(np.mean([*shares.values()])), None, shares, len(labels), pixel_accuracy=pixels)
    if "boxes" in found:
        each_class = detection.average_precision(found["boxes"], labels)
        half = {number: float(areas[0]) for number, areas in each_class.items()}
        strict = float(np.mean([areas.mean() for areas in each_class.values()])) if each_class else 0.0
        return Accuracy(float(np.mean([*half.values()])) if half else 0.0, None, half, len(labels), strict_precision=strict)
    return tally(Ranked(found["ranks"], found["nats"], int(found["classes"])), labels)


def _dense(predict: Predict, split: "Split", batch: int, progress: Progress | None) -> dict[str, NDArray[Any]]:
    """Return the pixels of each class that were found, or the boxes; what is kept of an example is small.

    Raises:
        LaconicError: the network's outputs are not finite, or no maps that fit the labels.
    """
    rows = list[NDArray[Any]]()
    for start in range(0, len(split), batch):
        some = slice(start, min(start + batch, len(split)))
        outputs, labels = np.asarray(predict(split.arrays(some))), np.asarray(split.labels[some])
        check_maps(outputs.shape, labels)
        _check_finite(outputs, start)
        if split.boxes:
            rows.append(detection.boxes_of(outputs))
        else:
            rows.append(segmentation.overlaps(outputs.argmax(1), labels, outputs.shape[1]))
        if progress:
            progress(some.stop, len(split))
    return {"boxes" if split.boxes else "overlaps": np.concatenate(rows)}


def check_maps(shape: tuple[int, ...], labels: NDArray[Any]) -> None:
    """Check that outputs are maps that can be scored against classes of pixels, or boxes.

    Args:
        shape: of the outputs.
        labels: of the same examples, (n, height, width) or (n, most, 5).

    Raises:
        LaconicError: says what they are and what was needed.
    """
    boxes = labels.dtype.kind == "f"
    size = ("rows", "columns") if boxes else labels.shape[1:]
    channels = shape[1] - (4 if boxes else 0) if len(shape) == 4 else 0
    highest = int(labels[..., 0].max() if boxes else labels.max())
    if channels < 1 or shape[0] != len(labels) or (not boxes and shape[2:] != labels.shape[1:]):
        wanted = "classes + 4" if boxes else "classes"
        raise LaconicError(
            f"the network must return maps ({wanted}, {size[0]}, {size[1]}) to every example; {len(labels)} examples gave {shape}"
        )
    if highest >= channels:
        raise LaconicError(f"the network has {channels} classes, but labels go up to {highest}")


def cosines(predict: Predict, split: "Split", batch: int = 64, progress: Progress | None = None) -> NDArray[np.float64]:
    """Return the cosine of the angle between every output, flattened, and the vector of its example; 0 where either is 0.

    Raises:
        LaconicError: the network's outputs are not finite or not as long as the vectors.
    """
    found = np.empty(len(split))
    for start in range(0, len(split), batch):
        some = slice(start, min(start + batch, len(split)))
        wanted = np.asarray(split.labels[some], np.float64)
        outputs = np.asarray(predict(split.arrays(some)), np.float64).reshape(len(wanted), -1)
        if outputs.shape != wanted.shape:
            raise LaconicError(f"the network gives {outputs.shape[1]} numbers for an example, and the vectors have {wanted.shape[1]}")
        _check_finite(outputs, start)
        lengths = np.linalg.norm(outputs, axis=1) * np.linalg.norm(wanted, axis=1)
        found[some] = (outputs * wanted).sum(1) / np.where(lengths > 0, lengths, 1.0)
        if progress:
            progress(some.stop, len(split))
    return found


def accuracy(predict: Predict, split: "Split", batch: int = 64, progress: Progress | None = None) -> Accuracy:
    """Score a network on every example of `split`, `batch` at a time.

    Raises:
        LaconicError: the network's output is not finite or does not fit the labels.
    """
    return summary(score_all(predict, split, batch, progress), split.labels)


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
    _check_finite(scores, start)
    return scores


def _check_finite(outputs: NDArray[Any], start: int) -> None:
    """Raise where the outputs of examples from number `start` are not finite."""
    bad = np.flatnonzero(~np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1))
    if bad.size:
        raise LaconicError(
            f"the network's output is NaN or infinite for {bad.size} of {len(outputs)} examples, first number {start + bad[0]}"
        )
