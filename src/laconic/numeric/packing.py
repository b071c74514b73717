"""Codes as bytes: whole numbers below a base, at the width that the base needs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_TWO_BYTES = 1 << 16


def pack(codes: NDArray[Any], base: int) -> NDArray[np.uint8]:
    """Write codes one after the other, the high end first; the last byte is filled up with zeros.

    A byte holds as many digits of `base` as fit where that takes no more than the bits of each code: 8 of base 2, 2 of base 16, and 5 of
    base 3, since 3^5 = 243, which is 1.6 bits each. Codes of any other base are one string of bits, `width(base)` for each.

    Args:
        codes: whole numbers from 0 to `base - 1`, shape (n,).
        base: how many different codes there are, 2 to 65,536.

    >>> pack(np.array([1, 2, 3]), 16).tolist(), pack(np.array([2, 0, 0, 0, 1, 1]), 3).tolist()
    ([18, 48], [163, 81])
    """
    if base == _TWO_BYTES:
        return codes.astype(">u2").view(np.uint8)
    digits = _digits(base)
    if not digits:
        shifts = np.arange(width(base) - 1, -1, -1, dtype=np.uint16)
        return np.packbits(((codes.astype(np.uint16)[:, None] >> shifts) & 1).astype(np.uint8).ravel())
    filled = np.pad(codes, (0, -len(codes) % digits)).reshape(-1, digits)
    return (filled @ _powers(base, digits)).astype(np.uint8)


def unpack(packed: NDArray[np.uint8], base: int, count: int) -> NDArray[np.int64]:
    """Read `count` codes of `base`; the inverse of `pack`."""
    if base == _TWO_BYTES:
        return packed.view(">u2").astype(np.int64)
    digits = _digits(base)
    if not digits:
        return np.unpackbits(packed, count=count * width(base)).reshape(count, width(base)) @ _powers(2, width(base))
    return (packed[:, None] // _powers(base, digits) % base).ravel()[:count]


def width(base: int) -> int:
    """Return the bits of a whole number below `base`.

    >>> width(2), width(3), width(256)
    (1, 2, 8)
    """
    return (base - 1).bit_length()


def _digits(base: int) -> int:
    """Return how many digits of `base` a byte holds, or 0 where a string of bits takes less."""
    digits = next(count for count in range(8, -1, -1) if base**count <= 256)
    return digits if digits * width(base) >= 8 else 0


def _powers(base: int, digits: int) -> NDArray[np.int64]:
    return base ** np.arange(digits - 1, -1, -1, dtype=np.int64)
