from pathlib import Path

import numpy as np
import pytest

from laconic.data import load
from laconic.errors import LaconicError

ARRAYS = {name: np.arange(6.0).reshape(3, 2) if name[0] == "x" else np.arange(3) for name in ("x_train", "y_train", "x_test", "y_test")}


def save(folder, **changes):
    np.savez(folder / "mine.npz", **{name: array for name, array in (ARRAYS | changes).items() if array is not None})
    return str(folder / "mine.npz")


def test_arrays_become_splits(tmp_path):
    dataset = load(save(tmp_path, x_val=np.ones((1, 2)), y_val=np.array([2]), mean=np.array([1, 2]), std=2 * np.ones(2)))
    assert dataset.name == "mine"
    assert np.array_equal(dataset.train.inputs, ARRAYS["x_train"])
    assert len(dataset.validation) == 1
    assert dataset.test.arrays([0]).tolist() == [[-0.5, -0.5]]


def test_a_single_mean_serves_all_channels(tmp_path):
    assert load(save(tmp_path, mean=np.float32(1), std=np.float32(2))).test.arrays([1]).tolist() == [[0.5, 1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "lacks y_test; it has x_train, y_train, x_test"),
        ({"x_test": None, "y_test": None}, "lacks x_test, y_test"),
        ({"x_valid": np.ones(1)}, "did you mean 'x_val'"),
        ({"x_train": np.array([{}, 1, 2])}, "cannot read .*without objects"),
        ({"y_train": np.ones(3)}, "labels must be one whole number per example"),
        ({"x_train": np.ones((2, 2))}, "as many labels as inputs"),
        ({"mean": np.ones(3), "std": np.ones(3)}, "have 3 numbers; its inputs have 2 channels"),
    ],
)
def test_arrays_that_cannot_work_are_told(tmp_path, changes, message):
    with pytest.raises(LaconicError, match=message):
        load(save(tmp_path, **changes))


@pytest.mark.parametrize("size", [0, 10, 300, -10])
def test_a_truncated_file_is_told(tmp_path, size):
    path = save(tmp_path)
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:size])
    with pytest.raises(LaconicError, match="cannot read"):
        load(path)


def test_an_absent_file_is_told(tmp_path):
    with pytest.raises(LaconicError, match=f"no file {tmp_path}/absent.npz"):
        load(f"{tmp_path}/absent.npz")
