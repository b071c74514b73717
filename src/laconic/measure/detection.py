"""Detection: from what a network says of each cell to boxes, and how many of the things that are there it finds.

A detector answers with a map `(n, classes + 4, rows, columns)`: to each cell a logit of each class, then how far left, top, right and
bottom of a thing are from the cell's middle, in cells. Two boxes of a class that overlap by more than half are one: the surer stays.

Source: M. Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", International Journal of Computer Vision 88, 2010, section
4.2 (average precision, as the area below the curve since 2010); T.-Y. Lin et al., "Microsoft COCO", ECCV 2014 (the mean over overlaps from
0.5 to 0.95, and that a found box is given the free thing that it overlaps most); cells and distances: Z. Tian, C. Shen, H. Chen, T. He,
"FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST = 50  # boxes of an example that are kept
OVERLAPS = tuple(float(step) / 100 for step in range(50, 100, 5))
_CANDIDATES, _LEAST_SCORE, _SAME = 200, 0.02, 0.5


def boxes_of(outputs: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the boxes that a network's answer means, the surest first.

    Args:
        outputs: (n, classes + 4, rows, columns).

    Returns:
        (n, MOST, 6): class, left, top, right, bottom as shares of the picture, and the probability; where there are fewer, class -1.
    """
    found = np.zeros((len(outputs), MOST, 6), np.float32)
    found[..., 0] = -1
    for number, one in enumerate(np.asarray(outputs, np.float64)):
        kept = _of_one(one)[:MOST]
        found[number, : len(kept)] = kept
    return found


def _of_one(outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    classes, rows, columns = outputs.shape[0] - 4, outputs.shape[1], outputs.shape[2]
    scores = 1 / (1 + np.exp(-outputs[:classes].reshape(-1).clip(-60, 60)))
    surest = np.argsort(-scores, kind="stable")[:_CANDIDATES]
    surest = surest[scores[surest] >= _LEAST_SCORE]
    kinds, cells = np.divmod(surest, rows * columns)
    left, top, right, bottom = outputs[classes:].reshape(4, -1)[:, cells]
    across, down = cells % columns + 0.5, cells // columns + 0.5
    sides = np.stack([across - left, down - top, across + right, down + bottom], 1)
    sides = (sides / [columns, rows, columns, rows]).clip(0, 1)
    listed = np.concatenate([kinds[:, None], sides, scores[surest, None]], 1)
    return listed[_apart(listed)]


def _apart(listed: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the numbers of the boxes that no surer one of their class covers; `listed` is in falling order."""
    covers = (overlap(listed[:, 1:5], listed[:, 1:5]) > _SAME) & (listed[:, None, 0] == listed[None, :, 0])
    gone = np.zeros(len(listed), bool)
    for number in range(len(listed)):
        if not gone[number]:
            gone[number + 1 :] |= covers[number, number + 1 :]
    return np.flatnonzero(~gone)


def overlap(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of every box of the first with every one of the second.

    Args:
        first: (m, 4), left, top, right, bottom.
        second: (n, 4).

    Returns:
        (m, n), in [0, 1]; 0 where both are empty.
    """
    one, other = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    inside = np.prod(np.clip(np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2]), 0, None), axis=-1)
    areas = [np.prod(np.clip(each[..., 2:] - each[..., :2], 0, None), axis=-1) for each in (one, other)]
    either = areas[0] + areas[1] - inside
    shares: NDArray[np.float64] = inside / np.where(either > 0, either, 1.0)
    return shares


def average_precision(
    found: NDArray[np.floating], labels: NDArray[np.floating], least: Sequence[float] = OVERLAPS
) -> dict[int, NDArray[np.float64]]:
    """Return the average precision of each class that is there.

    Args:
        found: as `boxes_of` gives them, (n, most, 6).
        labels: what is there, (n, most, 5): class, left, top, right, bottom; class -1 fills up.
        least: overlaps that a box needs to count as found.

    Returns:
        By class, one number in [0, 1] for each of `least`.
    """
    there = [int(kind) for kind in np.unique(labels[..., 0]) if kind >= 0]
    return {kind: _of_class(found, labels, kind, np.asarray(least)) for kind in there}


def _of_class(found: NDArray[np.floating], labels: NDArray[np.floating], kind: int, least: NDArray[np.float64]) -> NDArray[np.float64]:
    scores, right = list[float](), list[NDArray[np.bool_]]()
    for ours, theirs in zip(found, labels, strict=True):
        mine, wanted = ours[ours[:, 0] == kind], theirs[theirs[:, 0] == kind]
        mine = mine[np.argsort(-mine[:, 5], kind="stable")]
        shares = overlap(mine[:, 1:5], wanted[:, 1:5])
        free = np.ones((len(least), len(wanted)), bool)
        for row in range(len(mine)):
            hits = np.zeros(len(least), bool)
            for place, limit in enumerate(least):
                open_shares = np.where(free[place], shares[row], -1.0)
                if open_shares.size and open_shares.max() >= limit:
                    free[place, open_shares.argmax()], hits[place] = False, True
            scores.append(float(mine[row, 5]))
            right.append(hits)
    if not scores:
        return np.zeros(len(least))
    order = np.argsort(-np.array(scores), kind="stable")
    return _areas(np.array(right)[order].T, int((labels[..., 0] == kind).sum()))


def _areas(right: NDArray[np.bool_], there: int) -> NDArray[np.float64]:
    """Return the area below precision over recall, precision being the best at that recall or a higher one.

    Args:
        right: whether each box is a thing that is there, in falling order of their scores, (overlaps, boxes).
        there: how many things there are.
    """
    hits = np.cumsum(right, axis=1)
    precision = hits / np.arange(1, right.shape[1] + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    areas: NDArray[np.float64] = (best * right).sum(1) / there
    return areas
