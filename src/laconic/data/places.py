"""Where data lie: the root folder, and files under it that may be absent."""

import os
from collections.abc import Iterable
from pathlib import Path

from laconic.errors import LaconicError


def data_root(root: Path | None) -> Path:
    """Return `root`, else the folder in LACONIC_DATA, else `./data`."""
    return Path(root or os.environ.get("LACONIC_DATA") or "data").expanduser()


def find(candidates: Iterable[Path], what: str, page: str) -> Path:
    """Return the first of `candidates` that exists.

    Args:
        candidates: paths in the order of preference.
        what: what lies there, for the message.
        page: public address where it can be downloaded.

    Raises:
        LaconicError: none exists.
    """
    candidates = list(candidates)
    for path in candidates:
        if path.exists():
            return path
    looked = ", ".join(str(path.absolute()) for path in candidates)
    raise LaconicError(
        f"{what} not found; looked for {looked}. Download it from {page} and point LACONIC_DATA or --data-root at the folder above"
    )
