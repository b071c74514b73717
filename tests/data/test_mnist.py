import gzip
import struct

import numpy as np
import pytest

from laconic.data import load
from laconic.errors import LaconicError

IMAGES = {"train": np.arange(5 * 784, dtype=np.uint32).astype(np.uint8).reshape(5, 28, 28), "t10k": np.full((2, 28, 28), 7, np.uint8)}


def idx(array):
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def write(folder, suffix=""):
    folder.mkdir(parents=True)
    pack = gzip.compress if suffix else bytes
    for prefix, images in IMAGES.items():
        (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
        (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(np.arange(len(images), dtype=np.uint8))))


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_public_layout_is_read(tmp_path, folder, suffix):
    write(tmp_path / folder, suffix)
    dataset = load("mnist", tmp_path)
    assert np.array_equal(dataset.train.inputs[:, 0], IMAGES["train"])
    assert dataset.test.inputs.shape == (2, 1, 28, 28)
    assert dataset.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert dataset.test.batch([0])[0][0, 0, 0, 0].item() == pytest.approx((7 - 33.3285) / 78.5655)


def test_the_folder_comes_from_the_environment(tmp_path, monkeypatch):
    write(tmp_path / "mnist")
    monkeypatch.setenv("LACONIC_DATA", str(tmp_path))
    assert len(load("mnist").test) == 2


def test_an_absent_file_is_told_with_the_page_to_download_it_from(tmp_path):
    with pytest.raises(LaconicError, match=rf"looked for {tmp_path}/mnist/t10k-images.*https://.*LACONIC_DATA or --data-root"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:3], lambda content: b"\1" + content[1:]])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_damaged_file_is_told(tmp_path, damage, suffix):
    write(tmp_path / "mnist", suffix)
    path = tmp_path / "mnist" / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LaconicError, match=r"train-images.* is not a whole IDX file"):
        load("mnist", tmp_path)
