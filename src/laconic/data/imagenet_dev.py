"""456 labelled photographs of ImageNet's classes, for work after training: every second image of a public challenge's development set.

Source: A. Kurakin et al., "Adversarial Attacks and Defences Competition", The NIPS '17 Competition, Springer 2018.
"""

import csv
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from laconic.data.cache import cached
from laconic.data.dataset import Dataset, Split
from laconic.data.pictures import Numbers, Positive, Side, decode_zip, per_channel
from laconic.data.places import find
from laconic.errors import LaconicError

_PAGE = "https://www.kaggle.com/datasets/google-brain/nips-2017-adversarial-learning-development-set"
_CALIBRATION = 128  # the first rows of labels.csv; the others are the test


def imagenet_dev(
    root: Path,
    seed: int,
    /,
    *,
    size: Side = 224,
    mean: Numbers = (128.0,),
    std: Positive = (128.0,),
    background: Annotated[int, Field(ge=0, le=1)] = 1,
) -> Dataset:
    """Read `imagenet-dev/{images.zip,labels.csv}`: 128 images for calibration, 328 for the test, none for training.

    The options are preset for TensorFlow's networks, such as `zoo:mobilenet_v2`; for torchvision's, use
    `imagenet-dev?mean=123.675,116.28,103.53&std=58.395,57.12,57.375&background=0`.

    Args:
        root: the data folder.
        seed: not used.
        size: height and width in pixels, to which images are resized bicubically, without regard to their proportions.
        mean: one number or three, subtracted from bytes 0..255.
        std: one number or three, dividing the difference.
        background: added to ImageNet's labels 0..999: 1 for networks of 1,001 outputs, where class 0 is the background.

    Raises:
        LaconicError: a file is absent, damaged or does not fit the other.
    """
    folder = root / "imagenet-dev"
    names, labels = _rows(find([folder / "labels.csv"], "imagenet-dev's labels.csv", _PAGE))
    archive = find([folder / "images.zip"], "imagenet-dev's images.zip", _PAGE)
    images = cached(archive, f"{size} {' '.join(names)}", lambda: decode_zip(archive, names, size))
    every = Split(images, labels + background, per_channel(mean, 3, "mean"), per_channel(std, 3, "std"))
    calibration, test = every.take(slice(_CALIBRATION)), every.take(slice(_CALIBRATION, None))
    source = "every second image of the NIPS 2017 adversarial-learning development set; CC BY 2.0 per image"
    return Dataset(test, calibration=calibration, name="imagenet-dev", source=source)


def _rows(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Return file names and labels 0..999, in the order of the rows."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(row["file"], int(row["imagenet_class"])) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise LaconicError(f"{path} must have the columns 'file' and 'imagenet_class', a whole number: {error}") from error
    labels = np.array([label for _, label in rows], np.int64)
    if len(rows) <= _CALIBRATION or labels.min() < 0 or labels.max() > 999:
        raise LaconicError(f"{path} must have more than {_CALIBRATION} rows and labels 0..999")
    return [name for name, _ in rows], labels
