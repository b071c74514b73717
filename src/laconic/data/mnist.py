"""MNIST: handwritten digits, 60,000 + 10,000, 28 x 28 grey.

Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 1998.
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laconic.data.augment import CropFlip
from laconic.data.dataset import Dataset, Split
from laconic.data.places import find
from laconic.errors import LaconicError

_PAGE = "https://ossci-datasets.s3.amazonaws.com/mnist/ (the mirror that torchvision uses) or http://yann.lecun.com/exdb/mnist/"
_FOLDERS = ("mnist", "MNIST/raw")


def mnist(root: Path, seed: int, /) -> Dataset:
    """Read the four IDX files, gzip'd or not, from `mnist/` or torchvision's `MNIST/raw/`.

    Raises:
        LaconicError: a file is absent or not whole.
    """
    classes = tuple("0123456789")
    shift = CropFlip(padding=1, flip=False, border="replicate")
    source = "MNIST, LeCun et al.; CC BY-SA 3.0"
    return Dataset(_part(root, "t10k"), _part(root, "train"), augment=shift, classes=classes, name="mnist", source=source)


def _part(root: Path, prefix: str) -> Split:
    images = _read(root, f"{prefix}-images-idx3-ubyte", 3)
    labels = _read(root, f"{prefix}-labels-idx1-ubyte", 1)
    return Split(images[:, None], labels, mean=(33.3285,), std=(78.5655,))


def _read(root: Path, name: str, axes: int) -> NDArray[np.uint8]:
    """Read one IDX file of bytes: magic number 0x0000080n for n axes, n sizes, the bytes; whole numbers are 32 bits, big-endian."""
    path = find([root / folder / f"{name}{suffix}" for folder in _FOLDERS for suffix in ("", ".gz")], f"MNIST's {name}", _PAGE)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *shape = struct.unpack_from(f">{1 + axes}I", content)
        if magic != 0x800 + axes:
            raise ValueError(f"magic number {magic:#x} in place of {0x800 + axes:#x}")
        return np.frombuffer(content, np.uint8, offset=4 * (1 + axes)).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise LaconicError(f"{path} is not a whole IDX file: {error}; download it again from {_PAGE}") from error
