from dataclasses import replace

import numpy as np
import pytest

from laconic.data import Dataset, Split, parts, split
from laconic.data.splits import stratified
from laconic.errors import LaconicError


def part(n, start=0):
    """Every example is its own number, so that it is known again."""
    return Split(np.arange(start, start + n, dtype=np.float32)[:, None], np.arange(n) % 4)


def numbers(split):
    return set(split.inputs[:, 0].tolist())


DATA = Dataset(part(50, 9000), part(400))


def test_the_parts_are_disjoint_and_calibration_is_drawn_from_train():
    splits = split(DATA, calibration=64)
    assert {name: len(each) for name, each in parts(splits).items()} == {"train": 360, "calibration": 64, "validation": 40, "test": 50}
    assert numbers(splits.train) | numbers(splits.validation) == numbers(DATA.train)
    assert not numbers(splits.train) & numbers(splits.validation)
    assert numbers(splits.calibration) <= numbers(splits.train)
    assert splits.test is DATA.test


def test_examples_keep_their_labels():
    splits = split(DATA)
    for each in (splits.train, splits.validation, splits.calibration):
        assert (each.inputs[:, 0] % 4 == each.labels).all()


def test_every_class_has_its_share_of_the_validation_part():
    assert np.bincount(split(DATA, validation=40).validation.labels).tolist() == [10] * 4


def test_the_seed_decides():
    assert numbers(split(DATA, seed=1).validation) == numbers(split(DATA, seed=1).validation)
    assert numbers(split(DATA, seed=1).validation) != numbers(split(DATA, seed=2).validation)


def test_the_makers_parts_are_kept():
    splits = split(replace(DATA, validation=part(7, 5000), calibration=part(9, 6000)))
    assert len(splits.train) == 400
    assert (numbers(splits.validation), numbers(splits.calibration)) == (set(range(5000, 5007)), set(range(6000, 6009)))


def test_without_training_data_validation_is_the_calibration_part():
    splits = split(Dataset(part(50), calibration=part(8, 100)))
    assert splits.train is None
    assert splits.validation is splits.calibration


@pytest.mark.parametrize(
    ("dataset", "arguments", "message"),
    [
        (replace(DATA, train=None), {}, "neither train nor calibration"),
        (DATA, {"validation": 400}, "cannot cut 400 validation examples from 400"),
        (DATA, {"validation": 0}, "choose 1 to 399"),
        (DATA, {"calibration": 0}, "at least 1"),
    ],
)
def test_impossible_sizes_are_told(dataset, arguments, message):
    with pytest.raises(LaconicError, match=message):
        split(dataset, **arguments)


def test_a_stratified_draw_is_within_one_example_of_the_exact_share():
    labels = np.repeat([0, 5, 7], [10, 90, 301])
    for seed in range(20):
        chosen = stratified(labels, 40, np.random.default_rng(seed))
        assert len(set(chosen.tolist())) == 40
        for label, count in ((0, 10), (5, 90), (7, 301)):
            assert abs((labels[chosen] == label).sum() - 40 * count / 401) <= 1


def test_a_stratified_draw_treats_all_examples_alike():
    labels = np.array([0] * 5 + [1] * 15)
    counts = np.zeros(20)
    for seed in range(2000):
        counts[stratified(labels, 7, np.random.default_rng(seed))] += 1
    assert np.abs(counts / 2000 - 7 / 20).max() < 0.06  # 5 deviations of a share of 2,000 draws
