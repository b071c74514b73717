"""Arrays that are slow to make, kept in a cache folder between runs."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from laconic.errors import LaconicError
from laconic.files import sha256, whole_file


def cached(source: Path, settings: str, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return what `make` returns, from the cache where it is there; a cache that cannot be read or written costs only time.

    The folder is LACONIC_CACHE, else `~/.cache/laconic`.

    Args:
        source: the file that `make` reads; its content is part of the key.
        settings: everything else that the result depends on.
        make: decodes the images.
    """
    path = _place(f"{source.stem}-{sha256(source)} {settings} pillow {PIL.__version__}")
    kept = _read(path)
    if kept is None:
        kept = make()
        _write(path, kept)
    return kept


def _place(key: str) -> Path | None:
    folder = os.environ.get("LACONIC_CACHE")
    try:
        home = Path(folder) if folder else Path.home() / ".cache" / "laconic"
    except RuntimeError:  # a user without a home folder
        return None
    return home / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"


def _read(path: Path | None) -> NDArray[np.uint8] | None:
    """Return the array in `path`; None where there is no whole one."""
    if path is not None:
        with suppress(OSError, ValueError, EOFError):
            array: NDArray[np.uint8] = np.load(path, allow_pickle=False)
            return array
    return None


def _write(path: Path | None, array: NDArray[np.uint8]) -> None:
    if path is not None:
        with suppress(OSError, LaconicError), whole_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
