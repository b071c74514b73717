"""Spoken digits: 3,000 recordings of six speakers, as pictures of energy over pitch and time.

Source: Z. Jackson et al., "Free Spoken Digit Dataset", 2018, https://github.com/Jakobovski/free-spoken-digit-dataset; CC BY-SA 4.0.
"""

import re
import zipfile
from pathlib import Path

import numpy as np

from laconic.data.dataset import Dataset, Split
from laconic.data.places import find
from laconic.data.sound import ShiftMask, log_mel, read_wave
from laconic.errors import LaconicError

_PAGE = "https://github.com/Jakobovski/free-spoken-digit-dataset (the folder recordings, or a zip of it)"
_NAME = re.compile(r"(\d)_(\w+)_(\d+)\.wav")
_TESTED = 5  # takes 0 to 4 of every speaker and digit are the makers' test split
_RATE, _SECONDS = 8000, 1.0
_BANDS, _WINDOW, _HOP, _FFT = 40, 200, 80, 256  # frames of 25 ms every 10 ms


def fsdd(root: Path, seed: int, /) -> Dataset:
    """Read `fsdd/recordings.zip` or `fsdd/recordings/`, files `{digit}_{speaker}_{index}.wav`; indices 0 to 4 are the test split.

    Each recording is cut or filled up to a second around its middle; inputs are (40 bands, 98 frames). Speakers are in both splits.

    Raises:
        LaconicError: there are none, or one is damaged.
    """
    found = [(match, content) for name, content in _files(root) if (match := _NAME.fullmatch(name))]
    if not found:
        raise LaconicError(f"no recording {{digit}}_{{speaker}}_{{index}}.wav below {root / 'fsdd'}; download them from {_PAGE}")
    found.sort(key=lambda each: (each[0][2], int(each[0][1]), int(each[0][3])))
    sounds = np.stack([_picture(content, match[0]) for match, content in found])
    labels, takes = (np.array([int(match[group]) for match, _ in found]) for group in (1, 3))
    tested = takes < _TESTED
    if tested.all() or not tested.any():
        raise LaconicError(f"the recordings below {root / 'fsdd'} are not whole: takes 0 to 4 are for the test, the others for training")
    mean, std = (tuple(map(float, each(sounds[~tested], (0, 2)))) for each in (np.mean, np.std))
    test, train = (Split(sounds[part], labels[part], mean, std) for part in (tested, ~tested))
    source = "Free Spoken Digit Dataset, Jackson et al.; CC BY-SA 4.0"
    return Dataset(test, train, augment=ShiftMask(), classes=tuple("0123456789"), name="fsdd", source=source)


def _files(root: Path) -> list[tuple[str, bytes]]:
    """Return the names and contents of all recordings."""
    place = find([root / "fsdd" / "recordings.zip", root / "fsdd" / "recordings"], "the spoken digits", _PAGE)
    if place.is_dir():
        return [(path.name, path.read_bytes()) for path in place.glob("*.wav")]
    try:
        with zipfile.ZipFile(place) as archive:
            return [(Path(name).name, archive.read(name)) for name in archive.namelist() if name.endswith(".wav")]
    except (zipfile.BadZipFile, OSError) as error:
        raise LaconicError(f"{place} is not a whole zip file: {error}; download it again from {_PAGE}") from error


def _picture(content: bytes, name: str) -> np.ndarray:
    samples = read_wave(content, name, _RATE)
    size = int(_RATE * _SECONDS)
    start = max(0, (len(samples) - size) // 2)
    samples = samples[start : start + size]
    before = (size - len(samples)) // 2
    return log_mel(np.pad(samples, (before, size - len(samples) - before)), _RATE, _BANDS, _WINDOW, _HOP, _FFT)
