"""The form of least bytes that gives a tensor back to the bit: zeros and repeated values are found in it."""

from collections.abc import Iterator

import numpy as np

from laconic.pack.writer import Array, Coded, Writer

_TABLE = 1 << 12  # different values at most; and each must stand for so many entries on average:
_REPEATED = 4
_WHOLE = {"float16": 1 << 11, "float32": 1 << 24}  # up to which a kind has every whole number
_PARTS = {"float64": "uint64", "float32": "uint32", "float16": "uint16", "bool": "uint8"}  # what tells bits apart


def exactly(array: Array) -> Coded:
    """Return a tensor in the form that costs least of those that keep every bit of it, also of negative zeros and NaNs."""
    return min(_forms(np.array(array, order="C")), key=cost)


def cost(coded: Coded) -> int:
    """Return the bytes that a tensor takes by itself."""
    writer = Writer()
    coded.write(writer)
    return len(writer.finish())


def _forms(array: Array) -> Iterator[Coded]:
    shape, dtype, flat = array.shape, array.dtype.name, array.ravel()
    yield Coded(shape, dtype, "bytes", stored=flat)
    if not flat.size:
        return
    if dtype == "uint8" and flat.min() >= ord(" ") and flat.max() <= ord("~"):
        yield Coded(shape, dtype, "text", stored=flat)
    bits = flat.view(_PARTS.get(dtype, dtype))
    values, codes, counts = np.unique(bits, return_inverse=True, return_counts=True)
    if len(values) == 1:
        yield Coded(shape, dtype, "same", stored=flat[:1])
        return
    if len(values) <= min(_TABLE, flat.size // _REPEATED):
        table = values.view(array.dtype)
        order = np.argsort(table, kind="stable")  # codes that are near each other stand for values that are
        places = np.argsort(order, kind="stable")[codes.ravel()]
        below = int(np.argsort(order, kind="stable")[counts.argmax()])  # the commonest is code 0
        yield Coded(shape, dtype, "table", (below, len(values)), places - below, 0, table[order])
    if dtype in _WHOLE and (np.abs(flat) <= _WHOLE[dtype]).all() and (flat == np.rint(flat)).all() and not (bits[flat == 0]).any():
        yield Coded(shape, dtype, "grid", (0, 0), flat.astype(np.int64))
    zeros = bits == 0
    if zeros.any():
        yield Coded(shape, dtype, "sparse", (), (~zeros).astype(np.int64), 0, flat[~zeros])
