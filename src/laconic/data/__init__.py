"""Data sets by name, adapters for the user's own, and their cut into parts with separate duties."""

from laconic.data.augment import CropFlip
from laconic.data.checks import check, check_labels, check_tokens, fingerprint
from laconic.data.dataset import Augment, Dataset, Split, Splits, parts
from laconic.data.loaders import LOADERS, load
from laconic.data.splits import split

__all__ = [
    "LOADERS",
    "Augment",
    "CropFlip",
    "Dataset",
    "Split",
    "Splits",
    "check",
    "check_labels",
    "check_tokens",
    "fingerprint",
    "load",
    "parts",
    "split",
]
