"""Segmentation: how well the pixels that a network gives to each class are those that belong to it.

Source: M. Everingham, L. Van Gool, C. Williams, J. Winn, A. Zisserman, "The PASCAL Visual Object Classes (VOC) Challenge", International
Journal of Computer Vision 88, 2010, section 4.1 (intersection over union of all pixels of the split, the mean over the classes).
"""

import numpy as np
from numpy.typing import NDArray


def overlaps(answers: NDArray[np.integer], labels: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Count the pixels of each example and class.

    Args:
        answers: the class that the network gives each pixel, (n, height, width).
        labels: the class that it has, of the same shape.
        classes: how many there are.

    Returns:
        (n, 3, classes): of the pixels of each class those found, those answered, those there.
    """
    counts = np.empty((len(labels), 3, classes), np.int64)
    for number, (answer, label) in enumerate(zip(answers, labels, strict=True)):
        for place, chosen in enumerate((label[answer == label], answer, label)):
            counts[number, place] = np.bincount(chosen.ravel(), minlength=classes)
    return counts


def intersection_over_union(counts: NDArray[np.int64]) -> dict[int, float]:
    """Return for each class that is answered or there: pixels found, as a share of those answered or there.

    Args:
        counts: as `overlaps` counts them.
    """
    found, answered, there = counts.sum(0)
    either = answered + there - found
    return {int(number): float(found[number] / either[number]) for number in np.flatnonzero(either)}


def pixel_accuracy(counts: NDArray[np.int64]) -> float:
    """Return the share of all pixels whose class is found; `counts` as `overlaps` counts them."""
    found, _, there = counts.sum(0)
    return float(found.sum() / there.sum())
