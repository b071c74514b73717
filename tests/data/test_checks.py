from dataclasses import replace

import numpy as np
import pytest

from laconic.data import Dataset, Split, check, check_labels, fingerprint, split
from laconic.errors import LaconicError


def part(n=20, shape=(1, 4, 4), **changes):
    generator = np.random.default_rng(n)
    return replace(Split(generator.random((n, *shape), np.float32), np.arange(n) % 3, (0.5,), (0.2,)), **changes)


def with_number(value, index):
    inputs = part().inputs.copy()
    inputs[index, 0, 1, 2] = value
    return inputs


def test_good_data_pass():
    check(Dataset(part(), part(40), classes=("a", "b", "c")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([0] * 7 + [-1] * 13)}, r"label -1 at train\[7\] is out of range"),
        ({"labels": np.array([0] * 19 + [3])}, r"label 3 at train\[19\].*names 3 classes.* 0 to 2"),
        ({"inputs": with_number(np.nan, 5)}, "1 numbers of the train inputs are NaN or infinite, first in example 5"),
        ({"inputs": with_number(np.inf, 6)}, "first in example 6"),
        ({"inputs": np.zeros((20, 1, 4, 5))}, r"example of train is \(1, 4, 5\), one of test is \(1, 4, 4\)"),
        ({"inputs": np.zeros((20, 1, 4, 4), object)}, "those of train are object"),
        ({"mean": (1.0, 2.0), "std": (1.0, 1.0)}, "mean and std of train have 2 numbers; its inputs have 1 channels"),
        ({"std": (0.0,)}, "std above 0"),
    ],
)
def test_bad_data_are_told_before_any_work(changes, message):
    dataset = Dataset(part(), replace(part(), **changes), classes=("a", "b", "c"))
    if "shape" in message:
        dataset = replace(dataset, classes=())
    for found in (check, split):
        with pytest.raises(LaconicError, match=message):
            found(dataset)


def test_without_class_names_only_the_sign_of_labels_is_checked():
    check(Dataset(part(), part(labels=np.full(20, 1000))))
    with pytest.raises(LaconicError, match="labels count from 0"):
        check(Dataset(part(), part(labels=np.full(20, -2))))


def test_labels_beyond_the_networks_outputs_are_told():
    splits = split(Dataset(part(), part(100)))
    check_labels(splits, 3)
    with pytest.raises(LaconicError, match=r"label 2 at train\[\d+\] is out of range: the network has 2 outputs"):
        check_labels(splits, 2)


def test_the_fingerprint_changes_with_every_part_of_the_data():
    dataset = Dataset(part(), part(40))
    train, labels = part(40), part(40).labels
    others = [
        replace(dataset, train=None),
        replace(dataset, train=None, validation=train),
        replace(dataset, train=replace(train, inputs=train.inputs + np.float32(1e-3))),
        replace(dataset, train=replace(train, inputs=train.inputs.reshape(40, 16))),
        replace(dataset, train=replace(train, labels=labels[::-1])),
        replace(dataset, train=replace(train, labels=labels.astype(np.uint64))),
        replace(dataset, train=replace(train, mean=(0.51,))),
    ]
    assert fingerprint(dataset) == fingerprint(Dataset(part(), part(40), name="another"))
    assert len({fingerprint(each) for each in (dataset, *others)}) == 1 + len(others)
