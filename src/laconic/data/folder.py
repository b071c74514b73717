"""The user's own images: a folder with one folder per class."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laconic.data.dataset import Dataset, Split
from laconic.data.pictures import Numbers, Positive, Side, decode, moments, per_channel, stack
from laconic.data.splits import stratified
from laconic.errors import LaconicError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_PARTS = {"train": "train", "test": "test", "val": "validation", "validation": "validation", "calibration": "calibration"}


def images(
    path: Path, seed: int, /, *, size: Side | None = None, mean: Numbers | None = None, std: Positive | None = None, grey: bool = False
) -> Dataset:
    """Read `path/{train,test}/<class>/*.png` (also `val` and `calibration`); or `path/<class>/*.png`, of which 20 % become the test.

    Args:
        path: the folder.
        seed: for the cut into training and test, where the folder has none.
        size: height and width in pixels, to which images are resized bicubically; None: they have one size already.
        mean: per channel, of bytes 0..255; None: measured on the training part (on the calibration part where there is none).
        std: likewise.
        grey: one channel in place of three.

    Raises:
        LaconicError: no such folder, no images, an image that cannot be decoded, or images of different sizes.
    """
    if not path.is_dir():
        raise LaconicError(f"no image folder {path.absolute()}; images:PATH takes PATH/train/<class>/*.png and PATH/test/<class>/*.png")
    folders = {_PARTS[folder.name]: folder for folder in _folders(path) if folder.name in _PARTS}
    classes = sorted({folder.name for part in (folders.values() or [path]) for folder in _folders(part)})
    found = {name: _part(folder, classes, size, grey) for name, folder in (folders or {"all": path}).items()}
    parts = found if folders else _cut(found["all"], seed)
    if "test" not in parts:
        raise LaconicError(f"{path} has {', '.join(folders)} but no folder 'test', which is needed for the receipt")
    measured = moments((parts.get("train") or parts.get("calibration") or parts["test"]).inputs)
    channels = 1 if grey else 3
    centre, spread = per_channel(mean or measured[0], channels, "mean"), per_channel(std or measured[1], channels, "std")
    parts = {name: replace(part, mean=centre, std=spread) for name, part in parts.items()}
    train, calibration, validation = (parts.get(name) for name in ("train", "calibration", "validation"))
    source = str(path.absolute())
    return Dataset(parts["test"], train, calibration, validation, classes=tuple(classes), name=path.name, source=source)


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _part(path: Path, classes: list[str], size: int | None, grey: bool) -> Split:
    files = [file for folder in _folders(path) for file in sorted(folder.rglob("*")) if file.suffix.lower() in _SUFFIXES]
    if not files:
        raise LaconicError(f"no images in {path.absolute()}; it takes <class>/*.png, with any of {', '.join(sorted(_SUFFIXES))}")
    decoded = (_decode(file, size, grey) for file in files)
    labels = np.array([classes.index(file.relative_to(path).parts[0]) for file in files])
    return Split(stack(decoded, [str(file) for file in files], f"decoding {path.name}"), labels)


def _decode(path: Path, size: int | None, grey: bool) -> NDArray[np.uint8]:
    with path.open("rb") as file:
        return decode(file, str(path), size, grey)


def _cut(every: Split, seed: int) -> dict[str, Split]:
    if len(every) < 2:
        raise LaconicError("an image folder without train and test needs at least 2 images; it has 1")
    test = stratified(every.labels, max(1, len(every) // 5), np.random.default_rng(seed))
    train = np.delete(np.arange(len(every)), test)
    return {"train": every.take(train), "test": every.take(test)}
