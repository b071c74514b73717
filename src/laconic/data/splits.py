"""The four parts with separate duties, cut from a data set by a seed."""

import numpy as np
from numpy.typing import NDArray

from laconic.data.checks import check
from laconic.data.dataset import Dataset, Split, Splits
from laconic.errors import LaconicError


def split(dataset: Dataset, seed: int = 0, validation: int | None = None, calibration: int = 512) -> Splits:
    """Cut a validation part from `train` and draw calibration inputs from what is left; parts that the makers give are kept as they are.

    Args:
        dataset: as loaded; checked again here. Examples with labels in several places have no class: any of them is drawn.
        seed: the same seed gives the same parts.
        validation: how many examples to cut, every class with its share; None: 10 % of `train`, at most 5,000.
        calibration: how many examples to draw, at most all that are left; they also stay in `train`.

    Returns:
        Four parts; without training data `train` is None, and `validation` is the calibration part where the makers name none.

    Raises:
        LaconicError: neither train nor calibration is there, a size does not fit, or the data are bad.
    """
    check(dataset)
    if dataset.train is None:
        return _untrained(dataset)
    generator = np.random.default_rng(seed)
    train, held_out = dataset.train, dataset.validation
    if held_out is None:
        train, held_out = _cut(train, min(5000, max(1, len(train) // 10)) if validation is None else validation, generator)
    if calibration < 1:
        raise LaconicError(f"calibration needs at least 1 example; got {calibration}")
    drawn = dataset.calibration or train.take(stratified(_classes(train), min(calibration, len(train)), generator))
    return Splits(train, drawn, held_out, dataset.test, dataset.augment)


def stratified(labels: NDArray[np.integer], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw `size` different indices at random, every class with its share, up to one example.

    Systematic sampling: the examples of a class, shuffled, stand at equal distances on [0, 1) from a random start; the first `size` are
    taken.

    Returns:
        `(size,)` indices in ascending order.
    """
    shuffled = generator.permutation(len(labels))
    _, classes, counts = np.unique(labels[shuffled], return_inverse=True, return_counts=True)
    grouped = np.argsort(classes, kind="stable")
    rank = np.empty(len(labels))
    rank[grouped] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (rank + generator.random(len(counts))[classes]) / counts[classes]
    return np.sort(shuffled[np.argsort(place, kind="stable")[:size]])


def _untrained(dataset: Dataset) -> Splits:
    if dataset.calibration is None:
        raise LaconicError(f"the data set {dataset.name!r} has neither train nor calibration examples; give at least one of them")
    return Splits(None, dataset.calibration, dataset.validation or dataset.calibration, dataset.test, dataset.augment)


def _cut(train: Split, size: int, generator: np.random.Generator) -> tuple[Split, Split]:
    """Return what is left of `train`, and `size` examples of it."""
    if not 1 <= size < len(train):
        raise LaconicError(f"cannot cut {size} validation examples from {len(train)} training examples; choose 1 to {len(train) - 1}")
    chosen = stratified(_classes(train), size, generator)
    left = np.delete(np.arange(len(train)), chosen)
    return train.take(left), train.take(chosen)


def _classes(part: Split) -> NDArray[np.integer]:
    return part.labels if part.labels.ndim == 1 else np.zeros(len(part), np.int64)
