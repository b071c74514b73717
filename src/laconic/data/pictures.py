"""Image files as arrays: decoding, sizes, and the mean and spread of their channels."""

import io
import sys
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BeforeValidator, Field
from rich.console import Console
from rich.progress import track

from laconic.errors import LaconicError

Numbers = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], BeforeValidator(lambda text: text.split(","))]
"""An option of one number, or of one per channel, separated by commas."""

Positive = Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], BeforeValidator(lambda text: text.split(","))]

Side = Annotated[int, Field(gt=0, le=8192)]
"""An option of a height and width in pixels."""


def decode(file: IO[bytes], name: str, size: int | None = None, grey: bool = False) -> NDArray[np.uint8]:
    """Decode one image file.

    Args:
        file: PNG, JPEG or whatever else Pillow reads.
        name: of the file, for the message.
        size: resize straight to this height and width, bicubic; None: as it is.
        grey: one channel in place of three (red, green, blue).

    Returns:
        `(channels, height, width)`.

    Raises:
        LaconicError: the file is no whole image, or unreasonably large.
    """
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning), Image.open(file) as picture:
            image = picture.convert("L" if grey else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise LaconicError(f"cannot decode the image {name}: {error}") from error
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def decode_zip(path: Path, names: Sequence[str], size: int | None = None) -> NDArray[np.uint8]:
    """Decode the images `names` of a zip file, in this order.

    Returns:
        `(n, 3, height, width)`.

    Raises:
        LaconicError: the zip file is damaged, a name is not in it, or images differ in size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            decoded = (decode(io.BytesIO(archive.read(name)), f"{path}:{name}", size) for name in names)
            return stack(decoded, names, f"decoding {path.name}")
    except (zipfile.BadZipFile, KeyError) as error:
        raise LaconicError(f"cannot read {path}: {error}; download it again") from error


def zip_names(path: Path) -> list[str]:
    """Return the names of the files in a zip file, in alphabetical order.

    Raises:
        LaconicError: it is no zip file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(name for name in archive.namelist() if not name.endswith("/"))
    except zipfile.BadZipFile as error:
        raise LaconicError(f"cannot read {path}: {error}; download it again") from error


def stack(images: Iterable[NDArray[np.uint8]], names: Sequence[str], task: str) -> NDArray[np.uint8]:
    """Put images of one shape into one array, with a progress bar on a terminal.

    Args:
        images: as many as `names`, each `(channels, height, width)`.
        names: for the message.
        task: what is being done, beside the bar.

    Raises:
        LaconicError: an image has another shape than the first one, or there is none.
    """
    console, hidden = Console(stderr=True), not sys.stderr.isatty()
    array: NDArray[np.uint8] | None = None
    for index, image in enumerate(track(images, task, total=len(names), console=console, transient=True, disable=hidden)):
        if array is None:
            array = np.empty((len(names), *image.shape), np.uint8)
        if image.shape != array.shape[1:]:
            raise LaconicError(f"{names[index]} is {image.shape}, {names[0]} is {array.shape[1:]}; give one size, as in ?size=32")
        array[index] = image
    if array is None:
        raise LaconicError(f"{task}: there are no images")
    return array


def moments(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of `(n, channels, height, width)` bytes; the deviation of a constant channel is 1."""
    total, squares = np.zeros(images.shape[1]), np.zeros(images.shape[1])
    for start in range(0, len(images), 1024):
        chunk = images[start : start + 1024].astype(np.float64)
        total += chunk.sum((0, 2, 3))
        squares += np.square(chunk).sum((0, 2, 3))
    count = images.size // images.shape[1]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1).tolist())


def per_channel(numbers: tuple[float, ...], channels: int, name: str) -> tuple[float, ...]:
    """Repeat a single number for every channel.

    Raises:
        LaconicError: there are neither one nor `channels` numbers.
    """
    if len(numbers) not in (1, channels):
        raise LaconicError(f"{name} takes one number or {channels} separated by commas; got {len(numbers)}")
    return numbers * channels if len(numbers) == 1 else numbers
