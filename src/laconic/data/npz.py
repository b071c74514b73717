"""The user's own arrays, in one file of numpy."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laconic.data.dataset import Dataset, Split
from laconic.errors import LaconicError, unknown

_PARTS = {"train": "train", "test": "test", "val": "validation", "calibration": "calibration"}
_KNOWN = ("mean", "std", *(f"{axis}_{part}" for axis in "xy" for part in _PARTS))


def npz(path: Path, seed: int, /) -> Dataset:
    """Read `x_test`, `y_test` and any of `x_train`, `x_val`, `x_calibration` with their labels, and `mean` and `std` per channel.

    Raises:
        LaconicError: no such file, not a whole one, one with pickled objects, or arrays that are missing or unknown.
    """
    arrays = _read(path)
    for name in arrays:
        if name not in _KNOWN:
            raise unknown(f"array in {path}:", name, _KNOWN)
    mean, std = (tuple(np.atleast_1d(arrays.get(name, ())).astype(float).tolist()) for name in ("mean", "std"))
    there = [part for part in _PARTS if f"x_{part}" in arrays or f"y_{part}" in arrays or part == "test"]
    missing = [name for part in there for name in (f"x_{part}", f"y_{part}") if name not in arrays]
    if missing:
        raise LaconicError(f"{path} lacks {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}")
    parts = {_PARTS[part]: Split(arrays[f"x_{part}"], arrays[f"y_{part}"], mean, std) for part in there}
    train, calibration, validation = (parts.get(name) for name in ("train", "calibration", "validation"))
    return Dataset(parts["test"], train, calibration, validation, name=path.stem, source=str(path.absolute()))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise LaconicError(f"no file {path.absolute()}; a .npz file holds x_train, y_train, x_test, y_test")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise LaconicError(f"cannot read {path} as arrays of numbers: {error}; write it with numpy.savez, without objects") from error
