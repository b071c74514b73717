import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from laconic.data import load, split
from laconic.errors import LaconicError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """130 images in another order than the rows; the image of row i is of the brightness i, and its label is 7 i."""
    folder = tmp_path / "imagenet-dev"
    folder.mkdir()
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for index in reversed(range(130)):
            file = io.BytesIO()
            Image.new("RGB", (9, 5), (index,) * 3).save(file, "PNG")
            archive.writestr(f"{index}.png", file.getvalue())
    rows = [f"{index}.png,{7 * index},CC BY 2.0" for index in range(130)]
    (folder / "labels.csv").write_text("\n".join(["file,imagenet_class,licence", *rows]))
    return tmp_path


def test_the_first_128_rows_calibrate_and_the_others_are_the_test(root):
    dataset = load("imagenet-dev?size=6", root)
    assert dataset.train is None
    assert dataset.calibration.inputs.shape == (128, 3, 6, 6)
    assert np.array_equal(dataset.calibration.inputs[:, 0, 0, 0], np.arange(128))
    assert dataset.test.inputs[:, 2, 5, 5].tolist() == [128, 129]
    assert split(dataset).validation is dataset.calibration


def test_options_set_size_normalisation_and_background(root):
    dataset = load("imagenet-dev", root)
    assert dataset.test.inputs.shape == (2, 3, 224, 224)
    assert dataset.test.labels.tolist() == [128 * 7 + 1, 129 * 7 + 1]
    assert dataset.test.batch([0])[0].abs().max() == 0  # (128 - 128) / 128
    dataset = load("imagenet-dev?size=8&background=0&mean=1,2,3&std=2", root)
    assert dataset.test.labels.tolist() == [128 * 7, 129 * 7]
    assert dataset.test.arrays([0])[0, :, 0, 0].tolist() == [63.5, 63, 62.5]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("size=0", "cannot take size=0: Input should be greater than 0; its options: size, mean, std, background"),
        ("background=2", "background=2"),
        ("mean=1,2", "mean takes one number or 3"),
        ("std=0", "std=0"),
        ("mean=nan", "mean=nan"),
        ("sise=3", "did you mean 'size'"),
    ],
)
def test_wrong_options_are_told(root, query, message):
    with pytest.raises(LaconicError, match=message):
        load(f"imagenet-dev?{query}", root)


@pytest.mark.parametrize("text", ["a,b\n1,2", "file,imagenet_class\nx.png,cat", "file,imagenet_class\n" + "0.png,1000\n" * 130])
def test_labels_of_another_kind_are_told(root, text):
    (root / "imagenet-dev" / "labels.csv").write_text(text)
    with pytest.raises(LaconicError, match=r"labels.csv must have"):
        load("imagenet-dev", root)


def test_an_image_that_is_not_in_the_zip_is_told(root):
    (root / "imagenet-dev" / "labels.csv").write_text("file,imagenet_class\n" + "absent.png,3\n" * 130)
    with pytest.raises(LaconicError, match=r"images.zip: .*absent.png"):
        load("imagenet-dev", root)
