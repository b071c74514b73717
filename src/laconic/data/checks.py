"""What is wrong with data, found before any work; and the hash that says which data it was."""

import hashlib

import numpy as np

from laconic.data.dataset import Dataset, Split, Splits, parts
from laconic.errors import LaconicError


def check(dataset: Dataset) -> None:
    """Check every split by itself and against `test`.

    Raises:
        LaconicError: inputs that are no numbers, not finite, or tokens below 0; parts of different shapes; labels out of range; a mean or
            std that does not fit.
    """
    shape, per_example = dataset.test.inputs.shape[1:], dataset.test.labels.shape[1:]
    for name, part in parts(dataset).items():
        _check_inputs(name, part)
        _check_normalisation(name, part)
        _check_range(name, part, len(dataset.classes) or None, "the data set names {} classes")
        if part.inputs.shape[1:] != shape:
            raise LaconicError(f"inputs must have one shape; an example of {name} is {part.inputs.shape[1:]}, one of test is {shape}")
        if part.labels.shape[1:] != per_example:
            raise LaconicError(f"labels must have one shape; an example of {name} has {part.labels.shape[1:]}, one of test {per_example}")


def check_labels(splits: Splits, outputs: int) -> None:
    """Check that every label is one of the network's `outputs`.

    Raises:
        LaconicError: naming the split, the index and the label.
    """
    for name, part in parts(splits).items():
        _check_range(name, part, outputs, "the network has {} outputs")


def check_tokens(splits: Splits, vocabulary: int) -> None:
    """Check that every token id of the inputs is one of `vocabulary`.

    Raises:
        LaconicError: naming the split and its highest token.
    """
    for name, part in parts(splits).items():
        highest = int(part.inputs.max())
        if highest >= vocabulary:
            raise LaconicError(f"token {highest} of {name} is out of range: the network knows {vocabulary}, from 0 to {vocabulary - 1}")


def fingerprint(dataset: Dataset | Splits) -> str:
    """Return the SHA-256, in hexadecimal, of all splits: bytes, shapes and dtypes of their arrays, mean and std."""
    digest = hashlib.sha256()
    for name, part in parts(dataset).items():
        digest.update(f"{name} {part.mean} {part.std}".encode())
        for array in (part.inputs, part.labels):
            digest.update(f" {array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _check_inputs(name: str, part: Split) -> None:
    if part.inputs.dtype.kind not in "buif":
        raise LaconicError(f"inputs must be numbers; those of {name} are {part.inputs.dtype}")
    if part.tokens and part.inputs.min() < 0:
        raise LaconicError(f"token ids count from 0; the lowest of {name} is {part.inputs.min()}; store other whole numbers as float32")
    if part.inputs.dtype.kind != "f":
        return
    broken = ~np.isfinite(part.inputs)
    if broken.any():
        first = int(broken.reshape(len(part), -1).any(axis=1).argmax())
        raise LaconicError(f"{int(broken.sum())} numbers of the {name} inputs are NaN or infinite, first in example {first}; clean them")


def _check_normalisation(name: str, part: Split) -> None:
    channels = part.inputs.shape[1] if part.inputs.ndim > 1 else 1
    if len(part.mean) not in (0, 1, channels):
        raise LaconicError(f"mean and std of {name} have {len(part.mean)} numbers; its inputs have {channels} channels (axis 1)")
    if not np.isfinite(part.mean).all() or not np.isfinite(part.std).all() or not (np.asarray(part.std) > 0).all():
        raise LaconicError(f"mean of {name} must be finite and std above 0; got mean {part.mean}, std {part.std}")


def _check_range(name: str, part: Split, limit: int | None, reason: str) -> None:
    """Raise at the first label below 0, or not below `limit`."""
    if part.boxes:
        _check_boxes(name, part)
    found = part.labels[..., 0] if part.boxes else part.labels
    wrong = (found < 0) & ((found != -1) | (not part.boxes))
    if limit is not None:
        wrong |= found >= limit
    if not wrong.any():
        return
    index = tuple(map(int, np.unravel_index(wrong.argmax(), wrong.shape)))
    allowed = "labels count from 0" if limit is None else f"{reason.format(limit)}, so labels go from 0 to {limit - 1}"
    raise LaconicError(f"label {found[index]:g} at {name}[{', '.join(map(str, index))}] is out of range: {allowed}")


def _check_boxes(name: str, part: Split) -> None:
    """Raise at the first box that is not whole."""
    classes, left, top, right, bottom = np.moveaxis(part.labels, -1, 0)
    whole = (classes == np.round(classes)) & (left >= 0) & (top >= 0) & (right <= 1) & (bottom <= 1) & (left < right) & (top < bottom)
    wrong = ~whole & (classes != -1)
    if wrong.any():
        index = tuple(map(int, np.unravel_index(wrong.argmax(), wrong.shape)))
        raise LaconicError(
            f"the box {part.labels[index].tolist()} at {name}[{', '.join(map(str, index))}] is not whole: it must be a class, then left < "
            "right and top < bottom as shares of the picture, from 0 to 1; fill up with rows of class -1"
        )
