import numpy as np
import pytest
from PIL import Image

from laconic.data import load
from laconic.errors import LaconicError


def write(folder, count, colour=(10, 20, 30), size=(6, 6)):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, colour).save(folder / f"{number}.{('png', 'BMP')[number % 2]}")


def test_a_folder_with_parts_is_read_with_one_numbering_of_classes(tmp_path):
    write(tmp_path / "train/cat", 3)
    write(tmp_path / "train/dog", 2, (30, 20, 10))
    write(tmp_path / "test/dog", 1)
    write(tmp_path / "val/cat", 4)
    dataset = load(f"images:{tmp_path}")
    assert dataset.classes == ("cat", "dog")
    assert (dataset.train.labels.tolist(), dataset.test.labels.tolist()) == ([0, 0, 0, 1, 1], [1])
    assert len(dataset.validation) == 4
    assert dataset.train.inputs[3, :, 0, 0].tolist() == [30, 20, 10]
    assert dataset.test.mean == pytest.approx((18, 20, 22))


def test_a_folder_of_classes_is_cut_80_to_20_by_the_seed(tmp_path):
    write(tmp_path / "cat", 20)
    write(tmp_path / "dog", 30)
    dataset = load(f"images:{tmp_path}?mean=1&std=2,3,4")
    assert np.bincount(dataset.test.labels).tolist() == [4, 6]
    assert np.bincount(dataset.train.labels).tolist() == [16, 24]
    assert (dataset.train.mean, dataset.train.std) == ((1, 1, 1), (2, 3, 4))


def test_images_are_resized_and_made_grey_on_request(tmp_path):
    write(tmp_path / "test/cat", 1, (50, 50, 50), (4, 9))
    write(tmp_path / "train/cat", 1, (50, 50, 50), (6, 6))
    dataset = load(f"images:{tmp_path}?size=5&grey=1")
    assert dataset.test.inputs.tolist() == [[[[50] * 5] * 5]]
    with pytest.raises(LaconicError, match=r"example of train is \(3, 6, 6\), one of test is \(3, 9, 4\)"):
        load(f"images:{tmp_path}")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no image folder"),
        (lambda path: path.mkdir(), "no images in"),
        (lambda path: write(path / "train/a", 2), "no folder 'test'"),
        (lambda path: (write(path / "a", 2), (path / "a/x.png").write_bytes(b"no image")), r"cannot decode the image .*a/x.png"),
        (lambda path: (write(path / "a", 2), write(path / "b", 1, size=(7, 6))), r"b/0.png is \(3, 6, 7\).*give one size, as in \?size=32"),
        (lambda path: write(path / "a", 1), "at least 2 images"),
    ],
)
def test_a_folder_that_cannot_work_is_told(tmp_path, make, message):
    make(tmp_path / "set")
    with pytest.raises(LaconicError, match=message):
        load(f"images:{tmp_path}/set")


def test_a_truncated_image_is_told(tmp_path):
    write(tmp_path / "a", 2)
    path = tmp_path / "a/0.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(LaconicError, match="cannot decode"):
        load(f"images:{tmp_path}")
