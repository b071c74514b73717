import numpy as np
import pytest

from laconic.data import Split
from laconic.errors import LaconicError
from laconic.measure import accuracy
from laconic.measure.segmentation import intersection_over_union, overlaps, pixel_accuracy


def test_shares_are_those_of_counting_pixel_by_pixel():
    random = np.random.default_rng(0)
    answers, labels = random.integers(0, 4, (2, 3, 5, 6))
    labels[labels == 3] = 0  # a class that is answered and never there
    counts = overlaps(answers, labels, 6)
    expected = {}
    for number in range(4):
        both = sum(a == number and b == number for a, b in zip(answers.flat, labels.flat, strict=True))
        either = sum(a == number or b == number for a, b in zip(answers.flat, labels.flat, strict=True))
        expected[number] = both / either
    assert intersection_over_union(counts) == pytest.approx(expected)
    assert expected[3] == 0
    assert pixel_accuracy(counts) == pytest.approx((answers == labels).mean())


def test_a_network_that_is_right_scores_1_and_classes_are_those_that_occur():
    labels = np.arange(2 * 4 * 4).reshape(2, 4, 4) % 3
    split = Split(labels[:, None].astype(np.float32), labels)
    found = accuracy(lambda inputs: np.eye(5, dtype=np.float32)[inputs[:, 0].astype(int)].transpose(0, 3, 1, 2), split, batch=1)
    assert found.top1 == found.pixel_accuracy == 1
    assert found.per_class == {0: 1, 1: 1, 2: 1}
    assert found.top5 is None


def test_what_is_no_map_of_the_labels_size_is_refused():
    split = Split(np.zeros((2, 1, 4, 4), np.float32), np.zeros((2, 4, 4), np.int64))
    for shape in ((2, 3), (2, 3, 2, 2), (2, 4, 4)):
        with pytest.raises(LaconicError, match="must return maps"):
            accuracy(lambda _, shape=shape: np.zeros(shape, np.float32), split)
    with pytest.raises(LaconicError, match="labels go up to 3"):
        accuracy(lambda _: np.zeros((2, 3, 4, 4), np.float32), Split(split.inputs, split.labels + 3))
    with pytest.raises(LaconicError, match="NaN"):
        accuracy(lambda _: np.full((2, 3, 4, 4), np.nan, np.float32), split)
