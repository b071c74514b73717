"""The form of least bytes that gives a tensor back to the bit: zeros and repeated values are found in it."""

from collections.abc import Iterator

import numpy as np

from laconic.pack.rate import decoded
from laconic.pack.writer import Array, Coded, in_lanes, written_tensors

_FINEST, _LARGEST = -512, 1 << 12  # multiples of a power of 2: its exponent, and how large they may be
_TABLE = 1 << 12  # different values at most; and each must stand for so many entries on average:
_REPEATED = 4
_NEAR = 0.02  # share of the bytes that may be spent on a form that is read faster
_PARTS = {"float64": "uint64", "float32": "uint32", "float16": "uint16", "bool": "uint8"}  # what tells bits apart


def exactly(array: Array, lanes: int = 0) -> Coded:
    """Return a tensor in the form that costs least of those that keep every bit of it, also of negative zeros and NaNs.

    Args:
        array: the tensor.
        lanes: that its codes are written in if they are many, see `laconic.pack.lanes`; then of forms that cost about as much the one with
            the fewest stored numbers is taken, which are read one by one. 0: none.
    """
    forms = [form.in_lanes(lanes) for form in _forms(np.array(array, order="C"))]
    costs = [cost(form) for form in forms]
    allowed = min(costs) * (1 + _NEAR if lanes else 1)
    near = [
        (form.stored.size if lanes else 0, each, at) for at, (form, each) in enumerate(zip(forms, costs, strict=True)) if each <= allowed
    ]
    return forms[min(near)[-1]]


def cost(coded: Coded) -> int:
    """Return the bytes that a tensor takes by itself."""
    data, _ = written_tensors("", {"": coded}, *in_lanes({"": coded}))
    return len(data)


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
    yield from _multiples(array)
    if len(values) <= min(_TABLE, flat.size // _REPEATED):
        table = values.view(array.dtype)
        order = np.argsort(table, kind="stable")  # codes that are near each other stand for values that are
        places = np.argsort(order, kind="stable")[codes.ravel()]
        below = int(np.argsort(order, kind="stable")[counts.argmax()])  # the commonest is code 0
        yield Coded(shape, dtype, "table", (below, len(values)), places - below, 0, table[order])
    zeros = bits == 0
    if zeros.any():
        yield Coded(shape, dtype, "sparse", (), (~zeros).astype(np.int64), 0, flat[~zeros])


def _multiples(array: Array) -> Iterator[Coded]:
    """Yield numbers as multiples of the greatest power of 2 that divides all of them, if they are small ones."""
    values = array.ravel()
    if array.dtype.kind != "f" or not np.isfinite(values).all() or not values.any():
        return
    fraction, exponent = np.frexp(values[values != 0].astype(np.float64))
    whole = np.abs(fraction * 2.0**53).astype(np.int64)
    step = int((exponent - 53 + np.log2(whole & -whole).astype(np.int64)).min())
    if step < _FINEST or np.abs(values).max() > _LARGEST * 2.0**step:
        return
    coded = Coded(array.shape, array.dtype.name, "grid", (0, 16 * step), (values * 2.0**-step).astype(np.int64))
    if decoded(coded).astype(array.dtype).tobytes() == array.tobytes():  # but for negative zeros
        yield coded
