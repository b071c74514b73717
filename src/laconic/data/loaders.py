"""Data sets by name."""

from collections.abc import Callable
from pathlib import Path

from laconic.data.checks import check
from laconic.data.cifar10 import cifar10, cifar10_jpeg
from laconic.data.dataset import Dataset
from laconic.data.digits import digits
from laconic.data.folder import images
from laconic.data.fsdd import fsdd
from laconic.data.imagenet_dev import imagenet_dev
from laconic.data.mnist import mnist
from laconic.data.npz import npz
from laconic.data.places import data_root
from laconic.data.scenes import scenes
from laconic.data.sst2 import sst2
from laconic.data.stories import stories260k
from laconic.data.text import tinyshakespeare
from laconic.errors import LaconicError, unknown
from laconic.imported import call, options

LOADERS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar10-jpeg": cifar10_jpeg,
    "fsdd": fsdd,
    "imagenet-dev": imagenet_dev,
    "scenes": scenes,
    "sst2": sst2,
    "stories260k": stories260k,
    "tinyshakespeare": tinyshakespeare,
}
"""The built-in data sets. A loader takes the data folder, a seed, and its options by keyword."""


def load(spec: str, root: Path | None = None, seed: int = 0) -> Dataset:
    """Load and check a data set.

    Args:
        spec: a built-in name (`digits`), `images:FOLDER`, `FILE.npz`, or the user's own `file.py:function` or `package.module:function`
            that returns a Dataset; options follow as a URL query: `imagenet-dev?size=224&background=1`.
        root: the folder of the built-in data sets; None: LACONIC_DATA, else `./data`.
        seed: cuts the test part where the makers do not.

    Raises:
        LaconicError: an unknown name or option, files that are absent or damaged, bad data, or an error in the user's function.
    """
    place, _, query = spec.partition("?")
    loader, where = _loader(place, root)
    dataset = _own(spec) if loader is None else loader(where, seed, **options(loader, query, place))
    check(dataset)
    return dataset


def _loader(place: str, root: Path | None) -> tuple[Callable[..., Dataset] | None, Path]:
    """Return who loads `place`, and from where; None: the user's own function."""
    if place.startswith("images:"):
        return images, Path(place.removeprefix("images:")).expanduser()
    if place.endswith(".npz"):
        return npz, Path(place).expanduser()
    if place not in LOADERS and ":" not in place:
        raise unknown("data set", place, [*LOADERS, "images:FOLDER", "FILE.npz", "FILE.py:FUNCTION"])
    return LOADERS.get(place), data_root(root)


def _own(spec: str) -> Dataset:
    dataset = call(spec, "data set")
    if not isinstance(dataset, Dataset):
        raise LaconicError(f"the data set {spec} must return a laconic.data.Dataset; it returned a {type(dataset).__name__}")
    return dataset
