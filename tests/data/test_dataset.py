"""What a split gives a network: pixels as float32, token ids as they are."""

import numpy as np
import pytest
import torch

from laconic.data import Dataset, Split, check, parts, split
from laconic.errors import LaconicError


def text(n, start=0, positions=4, dtype=np.int32):
    """Windows on the tokens start, start + 1, ...; each next token is the label."""
    tokens = (start + np.arange(n)[:, None] + np.arange(positions + 1)).astype(dtype)
    return Split(tokens[:, :-1], tokens[:, 1:])


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.int64])
def test_token_ids_stay_whole_numbers_however_wide_they_are_stored(dtype):
    inputs, labels = text(3, dtype=dtype).batch([2, 0])
    assert inputs.tolist() == [[2, 3, 4, 5], [0, 1, 2, 3]]
    assert labels.tolist() == [[3, 4, 5, 6], [1, 2, 3, 4]]
    assert inputs.dtype == labels.dtype == torch.int64


def test_bytes_floats_and_whatever_has_a_mean_become_float32():
    pixels, labels = np.array([[10], [30]]), np.array([0, 1])
    for part in (Split(pixels.astype(np.uint8), labels), Split(pixels.astype(float), labels), Split(pixels, labels, (20,), (10,))):
        assert not part.tokens
        assert part.arrays(slice(None)).dtype == np.float32
    assert part.arrays(slice(None)).tolist() == [[-1], [1]]


def test_token_ids_may_have_one_label_per_example():
    part = Split(np.array([[5, 3], [2, 2]]), np.array([1, 0]))
    assert part.tokens
    assert not part.sequences


def test_the_kind_of_labels_is_told_by_their_shape_and_type():
    kinds = ("sequences", "maps", "boxes", "vectors")
    labels = {
        (): np.zeros(2, int),
        ("sequences",): np.zeros((2, 3), int),
        ("maps",): np.zeros((2, 3, 5), np.uint8),
        ("boxes",): np.zeros((2, 3, 5), np.float32),
        ("vectors",): np.zeros((2, 3), np.float32),
    }
    for expected, each in labels.items():
        part = Split(np.zeros((2, 3, 3)), each)
        assert tuple(kind for kind in kinds if getattr(part, kind)) == expected
        assert part.batch([0, 1])[1].dtype == (torch.float32 if each.dtype.kind == "f" else torch.int64)
    for wrong in (np.zeros((2, 3, 3, 3), int), np.zeros((2, 3, 4), np.float32), np.zeros(2, np.float32)):
        with pytest.raises(LaconicError, match="one per position or pixel of it"):
            Split(np.zeros((2, 3, 3)), wrong)


def test_examples_with_a_label_per_position_are_cut_into_disjoint_parts():
    splits = split(Dataset(text(20, 1000), text(200)), calibration=32)
    starts = {name: set(part.inputs[:, 0].tolist()) for name, part in parts(splits).items()}
    assert {name: len(each) for name, each in starts.items()} == {"train": 180, "calibration": 32, "validation": 20, "test": 20}
    assert not starts["train"] & starts["validation"]
    assert starts["calibration"] <= starts["train"]


def test_a_token_below_0_is_refused():
    with pytest.raises(LaconicError, match=r"token ids count from 0; the lowest of test is -3"):
        check(Dataset(text(5, -3)))


def test_parts_with_labels_of_different_shapes_are_refused():
    per_example = Split(text(5).inputs, np.zeros(5, int))
    with pytest.raises(LaconicError, match=r"labels must have one shape; an example of train has \(\), one of test \(4,\)"):
        check(Dataset(text(5), per_example))


def test_a_label_out_of_range_is_located_by_example_and_position():
    labels = text(3).labels.copy()
    labels[1, 2] = -1
    with pytest.raises(LaconicError, match=r"label -1 at test\[1, 2\]"):
        check(Dataset(Split(text(3).inputs, labels)))
