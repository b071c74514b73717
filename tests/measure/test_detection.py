import numpy as np
import pytest

from laconic.data import Split, check
from laconic.data.dataset import Dataset
from laconic.errors import LaconicError
from laconic.measure import accuracy
from laconic.measure.detection import MOST, average_precision, boxes_of, overlap


def answer(*things, classes=3, rows=4, columns=8):
    """A map that says: at this cell, this class, these distances."""
    outputs = np.zeros((1, classes + 4, rows, columns), np.float32)
    outputs[:, :classes] = -20
    for kind, row, column, sides, logit in things:
        outputs[0, kind, row, column] = logit
        outputs[0, classes:, row, column] = sides
    return outputs


def test_a_cell_s_distances_are_a_box():
    [[box, *others]] = boxes_of(answer((2, 1, 3, (0.5, 1.5, 2.5, 0.5), 3.0)))
    assert box[:5] == pytest.approx([2, 3 / 8, 0, 6 / 8, 2 / 4])
    assert box[5] == pytest.approx(1 / (1 + np.exp(-3)))
    assert len(others) == MOST - 1
    assert all(each[0] == -1 for each in others)


def test_of_boxes_that_cover_each_other_the_surest_of_each_class_stays():
    same = (1.0, 1.0, 1.0, 1.0)
    outputs = answer((0, 1, 3, same, 1.0), (0, 1, 4, (2.0, 1.0, 0.0, 1.0), 2.0), (1, 1, 3, same, 0.5), (0, 1, 6, same, 0.0))
    [found] = boxes_of(outputs)
    kept = found[found[:, 0] >= 0]
    assert kept[:, 0].tolist() == [0, 1, 0]  # of the two of class 0 on one place the surer one
    assert kept[:, 5] == pytest.approx(1 / (1 + np.exp(-np.array([2.0, 0.5, 0.0]))))


def test_overlap_is_that_of_counted_squares():
    random = np.random.default_rng(1)
    corners = np.sort(random.integers(0, 12, (2, 7, 2, 2)), axis=2)
    first, second = (each.reshape(7, 4) for each in corners)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            squares = [{(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])} for box in (a, b)]
            either = len(squares[0] | squares[1])
            expected = len(squares[0] & squares[1]) / either if either else 0
            assert overlap(first, second)[i, j] == pytest.approx(expected)


def brute_force(found, labels, kind, least):
    """Average precision as its definition says it: at each recall the best precision from there on, integrated."""
    listed = sorted(
        ((box[5], image, box[1:5]) for image, boxes in enumerate(found) for box in boxes if box[0] == kind), key=lambda b: -b[0]
    )
    free = {image: [row[1:] for row in rows if row[0] == kind] for image, rows in enumerate(labels)}
    there, hits, points = sum(map(len, free.values())), 0, []
    for number, (_, image, box) in enumerate(listed, 1):
        shares = [overlap(box[None], other[None])[0, 0] for other in free[image]]
        if shares and max(shares) >= least:
            free[image].pop(int(np.argmax(shares)))
            hits += 1
        points.append((hits / there, hits / number))
    recalls = sorted({recall for recall, _ in points if recall})
    area, last = 0.0, 0.0
    for recall in recalls:
        area += (recall - last) * max(precision for other, precision in points if other >= recall)
        last = recall
    return area


def test_average_precision_is_that_of_its_definition():
    random = np.random.default_rng(2)
    labels = np.full((6, 4, 5), -1, np.float32)
    found = np.full((6, 12, 6), -1, np.float32)
    for image in range(6):
        for row in range(random.integers(0, 5)):
            left, top = random.uniform(0, 0.6, 2)
            labels[image, row] = [random.integers(2), left, top, left + random.uniform(0.1, 0.4), top + random.uniform(0.1, 0.4)]
        rows = [row for row in labels[image] if row[0] >= 0]
        for place in range(random.integers(0, 12)):
            near = rows[random.integers(len(rows))] if rows else np.array([0, 0.1, 0.1, 0.5, 0.5])
            found[image, place] = [*(near + np.array([0, *random.normal(0, 0.05, 4)])), random.uniform()]
    areas = average_precision(found, labels, (0.5, 0.75))
    assert len(areas) == 2
    for kind, (half, strict) in areas.items():
        assert half == pytest.approx(brute_force(found, labels, kind, 0.5))
        assert strict == pytest.approx(brute_force(found, labels, kind, 0.75))
        assert 0 <= strict <= half <= 1
    assert 0 < sum(areas[kind].sum() for kind in areas) < 4


def test_a_detector_that_is_right_scores_1_and_one_that_sees_nothing_0():
    outputs = np.concatenate([answer((0, 1, 3, (1, 1, 1, 1), 5.0)), answer((2, 2, 5, (1, 0.5, 2, 0.5), 5.0))])
    labels = np.full((2, 2, 5), -1, np.float32)
    labels[0, 1], labels[1, 0] = [0, 2.5 / 8, 0.5 / 4, 4.5 / 8, 2.5 / 4], [2, 4.5 / 8, 2 / 4, 7.5 / 8, 3 / 4]
    split = Split(np.arange(2, dtype=np.float32)[:, None], labels)
    found = accuracy(lambda inputs: outputs[inputs[:, 0].astype(int)], split, batch=1)
    assert (found.top1, found.strict_precision, found.per_class) == (1, 1, {0: 1, 2: 1})
    nothing = accuracy(lambda inputs: np.concatenate([answer()] * len(inputs)), split)
    assert (nothing.top1, nothing.strict_precision) == (0, 0)


def test_boxes_that_are_not_whole_are_found_before_work():
    good = np.array([[[1, 0.1, 0.1, 0.5, 0.5], [-1, 0, 0, 0, 0]]], np.float32)
    inputs = np.zeros((1, 3, 8, 8), np.float32)
    check(Dataset(Split(inputs, good), classes=("a", "b")))
    for place, value in ((3, 0.1), (4, 1.2), (1, np.nan), (0, 0.5)):
        bad = good.copy()
        bad[0, 0, place] = value
        with pytest.raises(LaconicError, match=r"box .* is not whole"):
            check(Dataset(Split(inputs, bad)))
    with pytest.raises(LaconicError, match="out of range"):
        check(Dataset(Split(inputs, good), classes=("a",)))
