"""Optimal clustering of numbers: the k centres of least squared distance, for every k at once, by dynamic programming.

Source: H. Wang, M. Song, "Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic Programming", The R Journal 3/2, 2011;
weighted, and by divide and conquer, O(k n log n), as in M. Song, H. Zhong, "Efficient weighted univariate clustering maps
outstanding dysregulated genomic zones in human cancers", Bioinformatics 36, 2020. Here all middles of a level of the recursion are
solved at once, as arrays.

Very many different numbers are first joined into cells that no cluster parts. That costs little, and never more than is told: where a
best clustering parts a cell of width h and weight w between centres at a distance g, giving all of the cell to one of the two costs at
most g h w / 2 (the boundary lies half way; of the two parts give away the one with the smaller product of width and weight, which is at
most h w / 4). The distances of neighbouring centres add up to at most the range of the numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Positions = NDArray[np.int64]

_CELLS, _MOST_CELLS = 1 << 13, 1 << 16  # more different numbers are joined into as many, or into more where that is not near enough:
_FACTOR = 1.001  # of the least error


@dataclass(frozen=True)
class Clustering:
    """Numbers by their nearest centre."""

    centres: Numbers  # ascending
    shares: Numbers  # of the numbers, or of what they count, that are nearest to each centre; they sum to 1
    error: float  # sum of the squared distances, each times its weight
    bound: float  # no clustering with as many centres has a smaller error than this


def cluster(values: Numbers, most: int, weights: Numbers | None = None) -> list[Clustering]:
    """Return the best clusterings into 1 to `most` clusters, no more than there are different values.

    They are exact for up to 8,192 different values. Of more, the error is at most 0.1 % above the least, or, with hundreds of clusters, as
    near as the `bound` of each tells.

    Args:
        values: finite numbers, one or more.
        most: of centres.
        weights: how much the distance of each value matters, positive; None: all the same.

    >>> [each.centres.tolist() for each in cluster(np.array([1.0, 2.0, 9.0, 11.0, 12.0]), 3)]
    [[7.0], [1.5, 10.666666666666666], [1.5, 9.0, 11.5]]
    """
    points, cells = _points(values, weights), _CELLS
    most = min(most, len(points.values))
    while True:
        joined = points if len(points.values) <= cells else points.joined(cells)
        found = list(_clusterings(points, joined, most))
        near = len(found) == most and all(each.error <= _FACTOR * each.bound for each in found)
        if near or joined is points or (len(found) == most and cells >= _MOST_CELLS):
            return found
        cells *= 2


@dataclass(frozen=True)
class _Points:
    """Numbers, or cells of neighbouring ones, ascending."""

    values: Numbers  # lowest of each
    highest: Numbers
    counts: Numbers
    sums: Numbers  # (3, points + 1): of the weights, and of them times value and value squared, up to each
    middle: float  # what was subtracted from the values, so that differences of sums are precise

    def joined(self, cells: int) -> "_Points":
        """Return neighbours as cells of about the same width times weight, the largest of which the bound depends on."""
        gaps, weights = np.diff(self.values, prepend=self.values[0]), np.diff(self.sums[0])
        way = np.cumsum(np.sqrt(gaps * weights))
        cell = np.minimum(way / way[-1] * cells, cells - 1).astype(np.int64)
        first = np.flatnonzero(np.diff(cell, prepend=-1))
        ends = np.append(first[1:], len(cell))
        counts = np.add.reduceat(self.counts, first)
        return _Points(self.values[first], self.highest[ends - 1], counts, self.sums[:, np.append(0, ends)], self.middle)

    def error(self, start: Positions, end: Positions) -> Numbers:
        """Return the squared distances from the mean of the points from `start` up to, not including, `end`, a later one."""
        weight, first, second = self.sums[:, end] - self.sums[:, start]
        found: Numbers = np.maximum(second - first * first / weight, 0.0)
        return found

    def means(self, starts: Positions) -> Numbers:
        """Return the mean of each of the clusters that begin at `starts`."""
        weight, first, _ = np.diff(self.sums[:, np.append(starts, len(self.values))])
        found: Numbers = first / weight
        return found

    @property
    def excess(self) -> float:
        """By how much a best clustering that parts no cell is above the best at most."""
        weights, widths = np.diff(self.sums[0]), self.highest - self.values
        return float((weights * widths).max() * (self.highest[-1] - self.values[0]) / 2)


def _points(values: Numbers, weights: Numbers | None) -> _Points:
    """Return the different values in order, equal ones joined."""
    weights = np.ones(len(values)) if weights is None else weights
    order = np.argsort(values, kind="stable")
    sorted_values, middle = values[order], float(np.average(values, weights=weights))
    first = np.flatnonzero(np.diff(sorted_values, prepend=np.nan) != 0)
    weight = np.add.reduceat(weights[order], first)
    counts = np.diff(np.append(first, len(values))).astype(np.float64)
    points = sorted_values[first] - middle
    sums = np.cumsum(weight * points ** np.arange(3)[:, None], axis=1)
    return _Points(points, points, counts, np.pad(sums, ((0, 0), (1, 0))), middle)


def _clusterings(points: _Points, joined: _Points, most: int) -> Iterator[Clustering]:
    """Yield the best clusterings that part no cell, moved to where the nearest centre of each point is the mean of its cluster."""
    for starts, error in _best_starts(joined, most):
        bound = max(0.0, error - joined.excess)
        at = starts if joined is points else _settled(points, np.searchsorted(points.values, joined.values[starts]))
        ends = np.append(at[1:], len(points.values))
        shares = np.add.reduceat(points.counts, at) / points.counts.sum()
        yield Clustering(points.means(at) + points.middle, shares, float(points.error(at, ends).sum()), bound)


def _settled(points: _Points, starts: Positions, rounds: int = 100) -> Positions:
    """Return where clusters start when boundaries have moved half way between means; the error never rises (S. Lloyd, 1982)."""
    for _ in range(rounds):
        means = points.means(starts)
        moved = np.append(0, np.searchsorted(points.values, (means[1:] + means[:-1]) / 2))
        if np.array_equal(moved, starts) or (np.diff(moved, append=len(points.values)) == 0).any():
            break
        starts = moved
    return starts


def _best_starts(points: _Points, most: int) -> Iterator[tuple[Positions, float]]:
    """Yield, for 1 to `most` clusters, where each of the best clusters starts, and the error."""
    count = len(points.values)
    ends = np.arange(1, count + 1)
    errors = np.concatenate([[0.0], points.error(np.zeros(count, np.int64), ends)])  # of the best clusterings of the first points
    last = [np.zeros(count + 1, np.int32)]  # where the last cluster of each starts
    yield np.zeros(1, np.int64), float(errors[-1])
    for clusters in range(2, min(most, count) + 1):
        errors, starts = _one_more(points, errors, clusters)
        last.append(starts)
        yield _back(last), float(errors[-1])


def _back(last: list[NDArray[np.int32]]) -> Positions:
    """Follow the starts of last clusters back to the first."""
    starts, end = list[int](), len(last[0]) - 1
    for each in reversed(last):
        end = int(each[end])
        starts.append(end)
    return np.array(starts[::-1], np.int64)


def _one_more(points: _Points, errors: Numbers, clusters: int) -> tuple[Numbers, NDArray[np.int32]]:
    """Return the least errors of the first points, for each number of them, with one more cluster, and where that starts.

    The start never falls as the number of points rises, so that a solved number bounds all those on either side of it.

    Args:
        points: what is clustered.
        errors: with `clusters - 1` clusters.
        clusters: how many there are then; fewer points are not clustered.
    """
    count = len(errors) - 1
    least, starts = np.zeros(count + 1), np.zeros(count + 1, np.int32)
    starts[:clusters] = np.arange(clusters) - 1
    step = 1 << count.bit_length()
    while step > 1:
        step //= 2
        ends = np.arange(step, count + 1, 2 * step)
        ends = ends[ends >= clusters]
        if not len(ends):
            continue
        lowest = np.maximum(starts[ends - step], clusters - 1)
        highest = np.where(ends + step <= count, starts[np.minimum(ends + step, count)], count)
        highest = np.maximum(np.minimum(highest, ends - 1), lowest)  # rounding may have chosen among equals in another order
        least[ends], starts[ends] = _least(points, errors, ends, lowest.astype(np.int64), highest.astype(np.int64))
    return least, starts


def _least(points: _Points, errors: Numbers, ends: Positions, lowest: Positions, highest: Positions) -> tuple[Numbers, Positions]:
    """Return, for each end, the least error over the starts of the last cluster from `lowest` to `highest`, and the first such start."""
    widths = highest - lowest + 1
    firsts = np.cumsum(widths) - widths
    starts = np.arange(widths.sum()) - np.repeat(firsts - lowest, widths)
    totals = errors[starts] + points.error(starts, np.repeat(ends, widths))
    least = np.minimum.reduceat(totals, firsts)
    hits = np.flatnonzero(totals == np.repeat(least, widths))
    return least, starts[hits[np.searchsorted(hits, firsts)]]
