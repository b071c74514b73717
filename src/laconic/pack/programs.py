"""From a program to the arrays of a `.lac` file and back: codes in the shape of their tensor, and the graph as text.

A quantized weight is written as whole numbers that count from the code of zero, so that the coder sees its rows, columns and zeros. What a
mask holds at zero is a zero there, and the mask is found again by that; only where a grid has no zero is the mask written as well. The
graph is one text, without the lines of source that a saved program names.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from laconic.errors import LaconicError
from laconic.numeric.packing import pack, unpack
from laconic.pack.writer import Array
from laconic.program import Program
from laconic.program.encode import NAMED
from laconic.program.file import FORMAT, put_together, taken_apart
from laconic.program.forms import Quantizer
from laconic.program.pack import Packed
from laconic.program.scaled import Scaled
from laconic.program.shared import Shared

PROGRAM = ".program"  # the array that holds the graph
_BFLOAT16 = "torch.bfloat16"
_WIDE = 1 << 11  # codes beyond are no float16


@dataclass(frozen=True)
class Arrays:
    """What a `.lac` file of a program holds."""

    arrays: dict[str, Array]
    weights: frozenset[str]  # names of those that are weights, as numbers or codes
    exact: frozenset[str]  # names of those that loss would spoil: codes, scales, tables that are no parameters


def arrays_of(program: Program) -> Arrays:
    """Take a program apart.

    Raises:
        LaconicError: its graph holds a value that the format does not know.
    """
    described, tensors = taken_apart(program, pack=True)
    found, weights, exact = dict[str, Array](), set[str](), set[str]()
    entries = [dict(entry) for entry in described["tensors"]]
    for entry in entries:
        name = entry["name"]
        if "packed" in entry:
            made = _spread(entry, {key: tensors.pop(place).numpy() for key, place in entry["packed"]["keys"].items()})
            loses = made.keys() == {name} and entry["parameter"]
            exact |= set() if loses else made.keys()
        else:
            made = {name: _numbers(entry, tensors.pop(entry.pop("key")))}
            exact |= set() if entry["parameter"] or made[name].ndim < 2 else {name}
        weights |= (
            {key for key, array in made.items() if key in (name, f"{name}.codes") and array.ndim > 1} if entry["parameter"] else set()
        )
        found |= made
    rest = {key: tensor.numpy() for key, tensor in tensors.items()}  # of representations that stand on edges
    described |= {"tensors": entries, "graph": [{key: node[key] for key in node if key != "source"} for node in described["graph"]]}
    text = json.dumps({"format": FORMAT, **described}, separators=(",", ":"))
    arrays = {PROGRAM: np.frombuffer(text.encode("ascii"), np.uint8), **found, **rest}
    return Arrays(arrays, frozenset(weights), frozenset(exact | rest.keys() | {PROGRAM}))


def program_of(arrays: Mapping[str, Array]) -> Program:
    """Put a program together from the arrays of a file.

    Raises:
        LaconicError: they hold no program, or one of a newer version.
    """
    if PROGRAM not in arrays:
        raise LaconicError("it holds tensors but no program; `laconic unpack` writes them as .safetensors")
    try:
        described = json.loads(arrays[PROGRAM].tobytes())
        written = described.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LaconicError("its program is not whole; pack it again") from None
    if written != FORMAT:
        raise LaconicError(f"its program has format {written}, this version of laconic reads format {FORMAT}")
    try:
        rest = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        for entry in described["tensors"]:
            if "packed" in entry:
                rest |= _gathered(entry, arrays)
            else:
                entry["key"] = entry["name"]
                rest[entry["name"]] = _tensor(entry, rest[entry["name"]])
        return put_together(described, rest)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError, AssertionError) as error:
        raise LaconicError(f"its program does not fit its tensors: {type(error).__name__}: {error}; pack it again") from None


def _numbers(entry: dict[str, Any], tensor: torch.Tensor) -> Array:
    """Return a tensor as an array; of bfloat16 the bits, which the entry then says."""
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    entry["bits"] = _BFLOAT16
    return tensor.view(torch.int16).numpy()


def _tensor(entry: dict[str, Any], tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(NAMED["dtype"][entry.pop("bits")]) if "bits" in entry else tensor


def _spread(entry: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Array]:
    """Return the arrays of a packed tensor with its values in its shape, and say in its entry how they are read."""
    name, how = entry["name"], entry["packed"]
    form = Packed(tuple(how["shape"]), how["dtype"], arrays, how["form"], how["settings"])
    quantizer, keep = form.quantizer(), form.keep()
    kept = np.ones(form.shape, bool) if keep is None else keep.numpy()
    values = arrays["values"] if quantizer is None else unpack(arrays["values"], quantizer.base, int(kept.sum()))
    whole = np.zeros(form.shape, values.dtype)
    whole[kept] = values
    if quantizer is not None:
        whole = np.where(kept, _counted(quantizer, whole), 0)
        whole = whole.astype(np.uint16 if quantizer.base > _WIDE else np.float16)  # only floating-point kinds are coded as whole numbers
    is_found = _tells_zeros(quantizer, form.shape)
    entry["packed"] = {key: how[key] for key in ("shape", "dtype", "form", "settings")}
    entry["packed"] |= {"arrays": sorted(set(arrays) - {"values", "keep"})} | ({"masked": True} if keep is not None else {})
    beside = {f"{name}.{key}": array for key, array in arrays.items() if key not in ("values", "keep")}
    beside |= {} if keep is None or is_found else {f"{name}.keep": kept}
    return {name if quantizer is None else f"{name}.codes": whole, **beside}


def _gathered(entry: dict[str, Any], arrays: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """Return the tensors of a packed form by key, and describe them in the entry; the inverse of `_spread`."""
    name, how = entry["name"], entry["packed"]
    found = {key: arrays[f"{name}.{key}"] for key in how.pop("arrays")}
    shape, masked = tuple(how["shape"]), how.pop("masked", False)
    quantizer = Packed(shape, how["dtype"], found, how["form"], how["settings"]).quantizer()
    whole = arrays[name if quantizer is None else f"{name}.codes"]
    if whole.shape != shape:
        raise ValueError(f"{name!r} has the shape {whole.shape}, not {shape}")
    if masked:
        keep = _not_zero(whole) if _tells_zeros(quantizer, shape) else arrays[f"{name}.keep"]
        found["keep"] = np.packbits(keep.ravel())
    kept = keep if masked else np.ones(shape, bool)
    if quantizer is None:
        values = whole[kept]
    else:
        any_code = _counted(quantizer, np.zeros(shape, np.int64))  # where there is none, under a mask
        codes = _uncounted(quantizer, np.where(kept, whole.astype(np.int64), any_code))
        if codes.size and not (codes.min() >= 0 and codes.max() < quantizer.base):
            raise ValueError(f"{name!r} has codes beyond its grid")
        values = pack(codes[kept], quantizer.base)
    found["values"] = values.ravel().copy()
    how["keys"] = {key: f"{name}:{key}" for key in found}
    return {f"{name}:{key}": torch.from_numpy(np.array(array)) for key, array in found.items()}


def _counted(quantizer: Quantizer, codes: Array) -> Array:
    """Return codes as numbers that are small where values are: counted from the code of zero, or by the order of what they stand for."""
    if isinstance(quantizer, Shared):
        ranks: Array = quantizer.ranks(torch.from_numpy(codes.astype(np.int64))).numpy()
        return ranks
    return codes - _zero_code(quantizer, codes.shape)


def _uncounted(quantizer: Quantizer, numbers: Array) -> Array:
    """Return the codes that were counted so."""
    if isinstance(quantizer, Shared):
        codes: Array = quantizer.codes_of(torch.from_numpy(numbers)).numpy()
        return codes
    return numbers + _zero_code(quantizer, numbers.shape)


@torch.no_grad()
def _zero_code(quantizer: Quantizer, shape: tuple[int, ...]) -> Array:
    """Return the code of zero at each entry, where the grid has scales."""
    if not isinstance(quantizer, Scaled):
        return np.zeros((), np.int64)
    found: Array = quantizer.encode(torch.zeros(shape)).numpy().astype(np.int64)
    return found


@torch.no_grad()
def _tells_zeros(quantizer: Quantizer | None, shape: tuple[int, ...]) -> bool:
    """Say whether a tensor's zeros can be told by what is written, so that its mask need not be."""
    if quantizer is None:
        return True
    if isinstance(quantizer, Shared):
        return bool((quantizer.levels != 0).all())
    zeros = torch.from_numpy(np.broadcast_to(_zero_code(quantizer, shape), shape).copy())
    return not quantizer.decode(zeros).any()


def _not_zero(array: Array) -> Array:
    """Return where an array is anything but +0."""
    different: Array = array != 0
    return different | np.signbit(array) if array.dtype.kind == "f" else different
