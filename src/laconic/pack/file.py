"""Tensors as one `.lac` file, to the bit or at a wanted rate, and what each of them costs and keeps."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from laconic.errors import LaconicError, UnreachableError
from laconic.pack.lanes import lanes_for
from laconic.pack.lossless import exactly
from laconic.pack.rate import Quality, code_tensor, decoded, quality
from laconic.pack.reader import LEAST
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
    weights: int  # how many there are

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole file for each weight."""
        return 8 * len(self.data) / max(1, self.weights)


def pack_exactly(
    arrays: Mapping[str, Array], about: Mapping[str, Any], weights: Collection[str] | None = None, fast: bool = False
) -> Packed:
    """Return the file of least bytes that gives every tensor back to the bit; `weights`, for counting, and `fast` as in `pack_at_rate`."""
    check_kinds(arrays)
    lanes = _lanes(arrays.values(), fast)
    coded = {name: exactly(array, lanes) for name, array in arrays.items()}
    return _packed(arrays, coded, about, _weights(arrays, weights))


def pack_at_rate(
    arrays: Mapping[str, Array],
    about: Mapping[str, Any],
    bits_per_weight: float,
    states: int = 8,
    weights: Collection[str] | None = None,
    exact: Collection[str] = (),
    fast: bool = False,
) -> Packed:
    """Return the file of least error in the weights that takes no more than so many bits for each of them, everything counted.

    The same step for all weights gives the least sum of squared errors. Other tensors are kept in 16 bits where they are wider
    floating-point numbers, and to the bit otherwise.

    Args:
        arrays: by name.
        about: what else the header says.
        bits_per_weight: of the whole file.
        states: of the trellis; more are slower to write and a little smaller.
        weights: names of the weights; None: floating-point tensors of two axes or more.
        exact: names of tensors, weights or not, that are kept to the bit.
        fast: large tensors are coded for speed of reading, in about a hundredth more bytes.

    Raises:
        LaconicError: there are no weights, some are not finite, or the rate cannot be met.
    """
    return closest(coder_of(arrays, about, states, weights, exact, fast), bits_per_weight)


@dataclass(frozen=True)
class Coder:
    """A file's tensors, ready to be written with any step."""

    at: Callable[[int], Packed]  # the file whose steps are 2**(step / 16)
    steps: range  # that make sense: every weight nearly to the bit, up to all of them zero


def coder_of(
    arrays: Mapping[str, Array],
    about: Mapping[str, Any],
    states: int = 8,
    weights: Collection[str] | None = None,
    exact: Collection[str] = (),
    fast: bool = False,
) -> Coder:
    """Return what writes the file for any step; see `pack_at_rate`.

    Raises:
        LaconicError: there are no weights, or some are not finite.
    """
    check_kinds(arrays)
    counted = _weights(arrays, weights)
    lossy = {name: arrays[name] for name in counted if name not in exact and arrays[name].dtype.kind == "f"}
    check_weights(lossy)
    lanes = _lanes(arrays.values(), fast)
    kept = {name: array for name, array in arrays.items() if name not in lossy}
    others = {name: exactly(array, lanes) if name in exact else _in_16_bits(array, lanes) for name, array in kept.items()}
    power = sum(float(np.square(array.astype(np.float64)).sum()) for array in lossy.values())
    middle = round(8 * np.log2(max(power, 1e-60) / sum(array.size for array in lossy.values())))

    def at(step: int) -> Packed:
        found = {name: code_tensor(array, step, _WORTH, states, lanes=lanes)[0] for name, array in lossy.items()}
        coded = {name: replace(each, dtype=arrays[name].dtype.name) for name, each in found.items()}
        return _packed(arrays, {name: coded.get(name) or others[name] for name in arrays}, about, counted)

    return Coder(at, range(middle + _SIXTEENTHS_DOWN, middle + _SIXTEENTHS_UP + 1))


def closest(coder: Coder, bits_per_weight: float) -> Packed:
    """Return the file of the finest step that takes no more than so many bits for each weight.

    Raises:
        UnreachableError: there is none.
    """
    low, high = coder.steps[0], coder.steps[-1]
    best = coder.at(high)
    if best.bits_per_weight > bits_per_weight:
        raise UnreachableError(
            f"{bits_per_weight:.4g} bits per weight cannot be met: with all weights zero the file still takes {best.bits_per_weight:.3g}; "
            "what is no weight is stored in 16 bits or more"
        )
    while high - low > 1 and best.bits_per_weight < bits_per_weight * (1 - _CLOSE):
        tried = coder.at((low + high) // 2)
        if tried.bits_per_weight <= bits_per_weight:
            best, high = tried, (low + high) // 2
        else:
            low = (low + high) // 2
    return best


def _lanes(arrays: Iterable[Array], fast: bool) -> int:
    """Return how many lanes the tensors of a file are coded in: 0 where none are."""
    return lanes_for(sum(array.size for array in arrays if array.size >= LEAST)) if fast else 0


def is_weight(array: Array) -> bool:
    """Say whether a tensor may be coded with loss."""
    return array.ndim > 1 and array.dtype.kind == "f" and array.size > 1


def _weights(arrays: Mapping[str, Array], names: Collection[str] | None) -> list[str]:
    return [name for name, array in arrays.items() if (is_weight(array) if names is None else name in names)]


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
        if not name.isascii() or not name.isprintable() or {'"', "\\"} & set(name):
            raise LaconicError(f"the tensor {name!r} must be named in ASCII, without quotes and backslashes")


def _in_16_bits(array: Array, lanes: int) -> Coded:
    """Return a tensor in float16 where it is wider and fits, else as it is."""
    if array.dtype.kind != "f" or array.dtype.itemsize < 4 or not np.isfinite(array).all() or (np.abs(array) > 65000).any():
        return exactly(array, lanes)
    narrow = array.astype(np.float16)
    as_it_is, stored = (
        exactly(narrow.astype(array.dtype), lanes),
        Coded(array.shape, array.dtype.name, "bytes", ("float16",), stored=narrow.ravel()),
    )
    return as_it_is if as_it_is.form in ("same", "table") else stored


def _packed(arrays: Mapping[str, Array], coded: Mapping[str, Coded], about: Mapping[str, Any], weights: Collection[str]) -> Packed:
    written: Written = write_file(coded, about)
    rows = (_row(name, arrays[name], each, written.bytes[name]) for name, each in coded.items())
    return Packed(written.data, tuple(rows), sum(arrays[name].size for name in weights))


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
