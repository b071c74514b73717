import io
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from laconic.data import load, split
from laconic.data.cifar10 import _CLASSES
from laconic.errors import LaconicError


def idx(array):
    """The bytes of an IDX file."""
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Five digits of known ink, and thirty photographs to each split."""
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mnist").mkdir()
    digits = np.zeros((5, 28, 28), np.uint8)
    for number in range(5):
        digits[number, 4 : 24 - number, 8 : 12 + 2 * number] = 255
    for prefix in ("train", "t10k"):
        (tmp_path / "mnist" / f"{prefix}-images-idx3-ubyte").write_bytes(idx(digits))
        (tmp_path / "mnist" / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(5, dtype=np.uint8)))
    (tmp_path / "cifar10-jpeg").mkdir()
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        with zipfile.ZipFile(tmp_path / "cifar10-jpeg" / f"{part}.zip", "w") as archive:
            for kind in _CLASSES:
                for number in range(3):
                    content = io.BytesIO()
                    Image.fromarray(random.integers(100, 156, (32, 32, 3), dtype=np.uint8)).save(content, "jpeg")
                    archive.writestr(f"{kind}/{number:04}.jpg", content.getvalue())
    return tmp_path


def test_maps_and_boxes_tell_the_same_of_the_same_scenes(root):
    maps, boxes = (load(f"scenes?labels={labels}&train=20&test=30", root) for labels in ("maps", "boxes"))
    assert np.array_equal(maps.test.inputs, boxes.test.inputs)
    assert maps.test.inputs.shape == (30, 3, 64, 64)
    assert (len(maps.train), maps.classes[0], boxes.classes) == (20, "background", tuple("0123456789"))
    seen = 0
    for labels, found in zip(maps.test.labels, boxes.test.labels, strict=True):
        rest = labels.copy()
        for kind, left, top, right, bottom in found[found[:, 0] >= 0]:
            inside = (slice(round(top * 64), round(bottom * 64)), slice(round(left * 64), round(right * 64)))
            assert (labels[inside] == kind + 1).mean() > 0.9  # these digits are rectangles
            rest[inside] = 0
            seen += 1
        assert not rest.any()
    assert 30 < seen <= 120
    assert len({int(each) for each in boxes.test.labels[..., 0].flat}) == 6


def test_scenes_are_the_same_for_every_seed_and_can_be_split(root):
    one, other = (load("scenes?train=20&test=5&size=32", root, seed) for seed in (0, 1))
    assert np.array_equal(one.train.inputs, other.train.inputs)
    parts = split(one, 0)
    assert (len(parts.train), len(parts.validation)) == (18, 2)


def test_there_are_no_more_scenes_than_photographs(root):
    with pytest.raises(LaconicError, match="30 photographs"):
        load("scenes?train=31&test=5", root)
