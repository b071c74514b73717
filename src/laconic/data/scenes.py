"""Composed scenes: handwritten digits of MNIST, in colours and sizes, on photographs of cifar10-jpeg, to be found or to be painted.

A made-up task from real images, for dense prediction where no labelled photographs are at hand: no published number compares with it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from laconic.data.cifar10 import cifar10_jpeg
from laconic.data.dataset import Dataset, Split, parts
from laconic.data.mnist import mnist
from laconic.errors import LaconicError

_MOST = 4  # digits in a scene, one at least
_SIDES = (0.25, 0.5)  # of a digit, the larger one, as a share of the scene's
_TRIES = 30  # places for a digit before it is left out
_CONTRAST = 45.0  # of 255: least distance of a digit's colour from the mean of what it covers, the mean over the channels
_INK = 128  # of 255: pixels from here on belong to the digit


class _Glyph(NamedTuple):
    ink: NDArray[np.float32]  # (height, width), 0 to 1
    left: int
    top: int


def scenes(
    root: Path,
    seed: int,
    /,
    *,
    labels: Literal["maps", "boxes"] = "maps",
    size: Annotated[int, Field(ge=32, le=512, multiple_of=8)] = 64,
    train: Annotated[int, Field(ge=10)] = 10_000,
    test: Annotated[int, Field(ge=1)] = 2_000,
) -> Dataset:
    """Compose scenes from `mnist/` and `cifar10-jpeg/`; digits and photographs of the test split are those of the makers' test splits.

    The scenes are the same for every seed. Labels are maps, a class to each pixel, background 0 and a digit's class one more than the
    digit; or boxes around the ink of each digit, the digit its class.

    Raises:
        LaconicError: a data set is not there.
    """
    digits, photographs = mnist(root, seed), cifar10_jpeg(root, seed)
    learned = [parts(each)["train"] for each in (digits, photographs)]
    made = [_composed(digits.test, photographs.test, test, size, labels, 0), _composed(learned[0], learned[1], train, size, labels, 1)]
    classes = tuple("0123456789") if labels == "boxes" else ("background", *"0123456789")
    source = "composed from MNIST (CC BY-SA 3.0) and CIFAR-10 as JPEG (no formal licence)"
    return Dataset(made[0], made[1], classes=classes, name="scenes", source=source)


def _composed(digits: Split, photographs: Split, count: int, size: int, kind: str, part: int) -> Split:
    """Return `count` scenes."""
    if count > len(photographs):
        raise LaconicError(f"there are {len(photographs)} photographs to compose scenes from; {count} were asked for")
    random = np.random.default_rng([20_240, part])
    chosen = random.permutation(len(photographs))[:count]
    inputs = np.empty((count, 3, size, size), np.uint8)
    maps = np.zeros((count, size, size), np.uint8)
    boxes = np.tile(np.array([-1, 0, 0, 0, 0], np.float32), (count, _MOST, 1))
    for number, photograph in enumerate(chosen):
        scene = _enlarged(photographs.inputs[photograph], size)
        placed = 0
        for digit in random.integers(len(digits), size=random.integers(1, _MOST + 1)):
            glyph = _placed(digits.inputs[digit, 0], maps[number], random)
            if glyph is None:
                continue
            digit_class = int(digits.labels[digit])
            _draw(scene, maps[number], glyph, digit_class + 1, random)
            boxes[number, placed], placed = [digit_class, *_box(glyph, size)], placed + 1
        inputs[number] = scene.round()
    return Split(inputs, maps if kind == "maps" else boxes, photographs.mean, photographs.std)


def _enlarged(photograph: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(photograph.transpose(1, 2, 0))).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32).transpose(2, 0, 1).copy()


def _placed(digit: NDArray[np.uint8], taken: NDArray[np.uint8], random: np.random.Generator) -> _Glyph | None:
    """Return the digit in some size at some place where no other is; None: none was found."""
    from PIL import Image

    rows, columns = (np.flatnonzero((digit >= _INK).any(axis)) for axis in (1, 0))
    ink = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    size = len(taken)
    scale = random.uniform(*_SIDES) * size / max(ink.shape)
    shape = [max(3, round(side * scale)) for side in ink.shape]
    larger = np.asarray(Image.fromarray(ink).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)).astype(np.float32) / np.float32(255)
    for _ in range(_TRIES):
        top, left = (int(random.integers(0, size - side + 1)) for side in shape)
        if not taken[top : top + shape[0], left : left + shape[1]].any():
            return _Glyph(larger, left, top)
    return None


def _draw(scene: NDArray[np.float32], labels: NDArray[np.uint8], glyph: _Glyph, number: int, random: np.random.Generator) -> None:
    """Paint the digit in a colour that stands out, and its label, in place."""
    height, width = glyph.ink.shape
    where = (slice(glyph.top, glyph.top + height), slice(glyph.left, glyph.left + width))
    below = scene[(slice(None), *where)].mean((1, 2))
    colours: Iterable[NDArray[np.float64]] = (random.uniform(0, 255, 3) for _ in range(1000))
    colour = next(each for each in colours if np.abs(each - below).mean() >= _CONTRAST)
    covered = scene[(slice(None), *where)]
    scene[(slice(None), *where)] = (covered * (1 - glyph.ink) + colour[:, None, None].astype(np.float32) * glyph.ink).clip(0, 255)
    labels[where][glyph.ink >= _INK / 255] = number


def _box(glyph: _Glyph, size: int) -> list[float]:
    """Return left, top, right and bottom of the ink as shares of the scene."""
    down, across = (np.flatnonzero((glyph.ink >= _INK / 255).any(axis)) for axis in (1, 0))
    sides = (glyph.left + across[0], glyph.top + down[0], glyph.left + across[-1] + 1, glyph.top + down[-1] + 1)
    return [float(side) / size for side in sides]
