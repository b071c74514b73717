import numpy as np

from laconic.data import load, split
from laconic.data.pictures import moments


def test_digits_are_cut_by_the_seed_with_every_class_in_its_share():
    dataset = load("digits")
    assert (dataset.train.inputs.shape, dataset.test.inputs.shape) == ((1297, 1, 8, 8), (500, 1, 8, 8))
    whole = np.bincount(dataset.train.labels) + np.bincount(dataset.test.labels)
    assert np.abs(np.bincount(dataset.test.labels) - whole * 500 / 1797).max() <= 1
    assert np.array_equal(dataset.test.inputs, load("digits").test.inputs)
    assert not np.array_equal(dataset.test.inputs, load("digits", seed=1).test.inputs)


def test_training_inputs_are_normalised_to_mean_0_and_deviation_1():
    train = load("digits").train.arrays(slice(None))
    assert abs(train.mean()) < 1e-5
    assert abs(train.std() - 1) < 1e-5


def test_moments_are_those_of_numpy_and_never_0_deviations():
    images = np.random.default_rng(0).integers(0, 256, (1500, 2, 3, 4), dtype=np.uint8)
    images[:, 1] = 9
    mean, std = moments(images)
    assert np.allclose(mean, images.mean((0, 2, 3)))
    assert np.allclose(std, [images[:, 0].std(), 1])


def test_digits_give_four_parts():
    splits = split(load("digits"))
    assert [len(splits.train), len(splits.validation), len(splits.calibration), len(splits.test)] == [1168, 129, 512, 500]
