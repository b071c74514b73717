"""CIFAR-10's Python batches, read without running anything that a pickle could name.

A pickle may name any function and have it called. Here the few names that the publisher's files need stand for inert classes that only
record their arguments; every other name is refused, and numpy itself never sees the file's description of an array.
"""

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from laconic.errors import LaconicError


def read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one of `data_batch_1` ... `data_batch_5`, `test_batch`.

    Returns:
        Pixels `(n, 3072)` and labels `(n,)`.

    Raises:
        LaconicError: the file holds anything else than CIFAR-10's arrays of bytes and lists, or is damaged.
    """
    try:
        with path.open("rb") as file:
            batch = _Reader(file, encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        pixels = batch["data"].bytes()
        return pixels.reshape(-1, 3072), np.array(batch["labels"], np.int64)
    except Exception as error:  # what a damaged pickle raises is not limited
        wanted = "use the binary version, cifar-10-batches-bin, from https://www.cs.toronto.edu/~kriz/cifar.html"
        raise LaconicError(f"cannot read {path} as a CIFAR-10 batch: {error or type(error).__name__}; {wanted}") from error


class _DType:
    """Stands for `numpy.dtype`: its name as stored."""

    def __init__(self, name: str | bytes, *flags: Any) -> None:
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment mean nothing for bytes."""


class _Array:
    """Stands for a `numpy.ndarray` under reconstruction: its state `(version, shape, dtype, column_major, content)`."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def bytes(self) -> NDArray[np.uint8]:
        _, shape, dtype, column_major, content = self.state
        if dtype.name != "u1" or column_major or not isinstance(content, bytes):
            raise ValueError("its array is not one of bytes in row order")
        return np.frombuffer(content, np.uint8).reshape(shape)


def _reconstruct(kind: type, shape: Any, code: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """Stand for `codecs.encode`: how Python 3 writes bytes in the pickle protocol of Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it uses the text encoding {encoding!r}")
    return text.encode("latin1")


class _Reader(pickle.Unpickler):
    _names: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which CIFAR-10's own files do not")
        return self._names[module, name]
