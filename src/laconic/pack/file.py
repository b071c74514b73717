"""Tensors as one `.lac` file, to the bit or at a wanted rate, and what each of them costs and keeps."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from laconic.errors import LaconicError
from laconic.pack.lossless import exactly
from laconic.pack.rate import Quality, code_tensor, decoded, quality
from laconic.pack.writer import Array, Coded, Written, write_file

_WORTH = 0.1  # squared steps that a bit is worth
_SIXTEENTHS_DOWN, _SIXTEENTHS_UP = -16 * 12, 16 * 6  # steps that are tried, from the root mean square of the weights
_CLOSE = 0.002  # share of the wanted rate that may stay unused


@dataclass(frozen=True)
class Row:
    """What one tensor became."""

    name: str
    form: str
    entries: int
    bytes: int
    quality: Quality | None  # of tensors with loss

    @property
    def bits(self) -> float:
        """Bits of an entry."""
        return 8 * self.bytes / max(1, self.entries)


@dataclass(frozen=True)
class Packed:
    """A whole file and what is in it."""

    data: bytes
    rows: tuple[Row, ...]
    weights: int  # entries of all tensors of two axes or more that hold floating-point numbers

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole file for each weight."""
        return 8 * len(self.data) / max(1, self.weights)


def pack_exactly(arrays: Mapping[str, Array], about: Mapping[str, Any]) -> Packed:
    """Return the file of least bytes that gives every tensor back to the bit."""
    check_kinds(arrays)
    return _packed(arrays, {name: exactly(array) for name, array in arrays.items()}, about)


def pack_at_rate(arrays: Mapping[str, Array], about: Mapping[str, Any], bits_per_weight: float, states: int = 8) -> Packed:
    """Return the file of least error in the weights that takes no more than so many bits for each of them, everything counted.

    Weights are floating-point tensors of two axes or more; the same step for all gives the least sum of squared errors. Others are kept
    in 16 bits where they are wider floating-point numbers, and to the bit otherwise.

    Args:
        arrays: by name.
        about: what else the header says.
        bits_per_weight: of the whole file.
        states: of the trellis; more are slower to write and a little smaller.

    Raises:
        LaconicError: there are no weights, some are not finite, or the rate cannot be met.
    """
    check_kinds(arrays)
    weights = {name: array for name, array in arrays.items() if is_weight(array)}
    check_weights(weights)
    others = {name: _in_16_bits(array) for name, array in arrays.items() if name not in weights}
    power = sum(float(np.square(array.astype(np.float64)).sum()) for array in weights.values())
    middle = round(8 * np.log2(max(power, 1e-60) / sum(array.size for array in weights.values())))

    def at(step: int) -> Packed:
        coded = {name: replace(code_tensor(array, step, _WORTH, states)[0], dtype=array.dtype.name) for name, array in weights.items()}
        return _packed(arrays, {name: coded.get(name) or others[name] for name in arrays}, about)

    low, high = middle + _SIXTEENTHS_DOWN, middle + _SIXTEENTHS_UP
    best = at(high)
    if best.bits_per_weight > bits_per_weight:
        raise LaconicError(
            f"{bits_per_weight:g} bits per weight cannot be met: with all weights zero the file still takes {best.bits_per_weight:.3g}; "
            "what is no weight is stored in 16 bits or more"
        )
    while high - low > 1 and best.bits_per_weight < bits_per_weight * (1 - _CLOSE):
        tried = at((low + high) // 2)
        if tried.bits_per_weight <= bits_per_weight:
            best, high = tried, (low + high) // 2
        else:
            low = (low + high) // 2
    return best


def is_weight(array: Array) -> bool:
    """Say whether a tensor may be coded with loss."""
    return array.ndim > 1 and array.dtype.kind == "f" and array.size > 1


def check_weights(weights: Mapping[str, Array]) -> None:
    """Find weights that cannot be coded with loss.

    Raises:
        LaconicError: there are none, or names the first that is not finite.
    """
    if not weights:
        raise LaconicError("there are no weights (floating-point tensors of two axes or more) to code with loss; use --lossless")
    for name, array in weights.items():
        bad = int((~np.isfinite(array)).sum())
        if bad:
            raise LaconicError(
                f"{bad} of {array.size} entries of {name!r} are NaN or infinite; they have no place on a grid; use --lossless"
            )


def check_kinds(arrays: Mapping[str, Array]) -> None:
    """Find tensors of kinds that the format does not have.

    Raises:
        LaconicError: names the first.
    """
    known = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "bool")
    for name, array in arrays.items():
        if array.dtype.name not in known:
            raise LaconicError(f"the tensor {name!r} is {array.dtype.name}; a .lac file holds {', '.join(known)}")
        if not name.isascii() or not name.isprintable():
            raise LaconicError(f"the tensor {name!r} must be named in ASCII")


def _in_16_bits(array: Array) -> Coded:
    """Return a tensor in float16 where it is wider and fits, else as it is."""
    if array.dtype.kind != "f" or array.dtype.itemsize < 4 or not np.isfinite(array).all() or (np.abs(array) > 65000).any():
        return exactly(array)
    narrow = array.astype(np.float16)
    as_it_is, stored = (
        exactly(narrow.astype(array.dtype)),
        Coded(array.shape, array.dtype.name, "bytes", ("float16",), stored=narrow.ravel()),
    )
    return as_it_is if as_it_is.form in ("same", "table") else stored


def _packed(arrays: Mapping[str, Array], coded: Mapping[str, Coded], about: Mapping[str, Any]) -> Packed:
    written: Written = write_file(coded, about)
    rows = (_row(name, arrays[name], each, written.bytes[name]) for name, each in coded.items())
    return Packed(written.data, tuple(rows), sum(array.size for array in arrays.values() if is_weight(array)))


def _row(name: str, array: Array, coded: Coded, size: int) -> Row:
    found = quality(array, decoded(coded)) if coded.form == "grid" and array.size else None
    return Row(name, coded.form, array.size, size, found if found and found.mean_square_error else None)


def lines(packed: Packed) -> Iterator[str]:
    """Yield a line for each tensor: what it costs, what it keeps, and how far that is from what any coder could do."""
    for row in packed.rows:
        text = f"{row.name}: {row.bytes:,} bytes, {row.form}, {row.bits:.3f} bits per entry"
        if row.quality:
            kept, bits = row.quality, row.bits
            text += (
                f", {kept.decibels:.1f} dB, mean square error {kept.mean_square_error:.3g}; Gaussian bound {kept.gaussian_bound:.3f} bits"
            )
            text += f" ({bits - kept.gaussian_bound:+.3f}), Shannon bound {kept.shannon_bound:.3f} ({bits - kept.shannon_bound:+.3f})"
        yield text
