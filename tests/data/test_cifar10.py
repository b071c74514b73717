import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from laconic.data import CropFlip, load
from laconic.data.cifar10 import _CLASSES
from laconic.errors import LaconicError

NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def batch(name):
    generator = np.random.default_rng(NAMES.index(name))
    return generator.integers(0, 256, (10, 3072), dtype=np.uint8), generator.permutation(10)


def write_binary(folder):
    folder.mkdir(parents=True)
    for name in NAMES:
        pixels, labels = batch(name)
        (folder / f"{name}.bin").write_bytes(np.hstack([labels[:, None].astype(np.uint8), pixels]).tobytes())


def write_python(folder, content=None):
    folder.mkdir(parents=True)
    for name in NAMES:
        pixels, labels = batch(name)
        whole = {b"batch_label": b"one of", b"labels": labels.tolist(), b"data": pixels, b"filenames": [b"a.png"]}
        (folder / name).write_bytes(pickle.dumps(content or whole, protocol=2))


@pytest.mark.parametrize("above", ["", "cifar10"])
@pytest.mark.parametrize(("folder", "write"), [("cifar-10-batches-bin", write_binary), ("cifar-10-batches-py", write_python)])
def test_both_published_versions_are_read(tmp_path, above, folder, write):
    write(tmp_path / above / folder)
    dataset = load("cifar10", tmp_path)
    assert np.array_equal(dataset.train.inputs, np.concatenate([batch(name)[0] for name in NAMES[:5]]).reshape(-1, 3, 32, 32))
    assert np.array_equal(dataset.test.labels, batch("test_batch")[1])
    assert dataset.augment == CropFlip(4)
    assert dataset.test.mean == pytest.approx((125.307, 122.961, 113.8575))


def test_python_2_pickles_are_read_like_the_publishers(tmp_path):
    write_python(tmp_path / "cifar-10-batches-py")
    pixels = bytes(range(256)) * 12
    state = (
        b"(I1\n(I1\nI3072\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\n"
        + b"T"
        + (3072).to_bytes(4, "little")
        + pixels
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR" + state + b"tb"
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"\x80\x02(dS'data'\n" + array + b"sS'labels'\n(lI3\nas.")
    test = load("cifar10", tmp_path).test
    assert test.inputs.tobytes() == pixels
    assert test.labels.tolist() == [3]


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({b"data": Attack()}, "names .*mkdir, which CIFAR-10's own files do not"),
        ({b"data": np.zeros((2, 3072))}, "not one of bytes in row order"),
        ({b"data": np.array([Attack()])}, "mkdir"),
        ({b"labels": [1]}, "data"),
        ([1, 2], "binary version"),
    ],
)
def test_a_pickle_of_anything_else_is_refused_and_not_run(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    write_python(tmp_path / "cifar-10-batches-py", content)
    with pytest.raises(LaconicError, match=message):
        load("cifar10", tmp_path)
    assert not (tmp_path / "attacked").exists()


def test_a_truncated_batch_is_told(tmp_path):
    for folder, write, suffix in (("bin", write_binary, ".bin"), ("py", write_python, "")):
        write(tmp_path / folder / f"cifar-10-batches-{folder}")
        path = tmp_path / folder / f"cifar-10-batches-{folder}" / f"data_batch_3{suffix}"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(LaconicError, match="data_batch_3"):
            load("cifar10", tmp_path / folder)


def jpeg(colour):
    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, "JPEG")
    return file.getvalue()


def write_jpeg(folder, per_class=2, last="truck"):
    folder.mkdir(exist_ok=True)
    for part in ("train", "test"):
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for index, kind in enumerate((*_CLASSES[:9], last)):
                for number in range(per_class):
                    archive.writestr(f"{kind}/{number:04}.jpg", jpeg((20 * index, 0, 200)))


def test_zipped_jpegs_are_read_with_classes_in_alphabetical_order_and_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "cache"))
    write_jpeg(tmp_path / "cifar10-jpeg")
    first = load("cifar10-jpeg", tmp_path)
    assert first.train.labels.tolist() == np.repeat(np.arange(10), 2).tolist()
    assert np.abs(first.test.inputs[6].astype(int) - np.array([60, 0, 200])[:, None, None]).max() <= 3  # JPEG
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert np.array_equal(load("cifar10-jpeg", tmp_path).train.inputs, first.train.inputs)


def test_a_changed_zip_is_decoded_again_and_a_damaged_cache_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "cache"))
    write_jpeg(tmp_path / "cifar10-jpeg")
    load("cifar10-jpeg", tmp_path)
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    assert len(load("cifar10-jpeg", tmp_path).test) == 20
    write_jpeg(tmp_path / "cifar10-jpeg", per_class=3)
    assert len(load("cifar10-jpeg", tmp_path).test) == 30


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "file" / "cache"))
    write_jpeg(tmp_path / "cifar10-jpeg")
    assert len(load("cifar10-jpeg", tmp_path).test) == 20


def test_zips_of_other_classes_and_damaged_ones_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "cache"))
    with pytest.raises(LaconicError, match=r"looked for .*train.zip"):
        load("cifar10-jpeg", tmp_path)
    write_jpeg(tmp_path / "cifar10-jpeg", last="lorry")
    with pytest.raises(LaconicError, match=r"ten folders .* it holds .*lorry"):
        load("cifar10-jpeg", tmp_path)
    (tmp_path / "cifar10-jpeg" / "train.zip").write_bytes(b"PK")
    with pytest.raises(LaconicError, match=r"cannot read .*train.zip"):
        load("cifar10-jpeg", tmp_path)
