"""From `.safetensors` to arrays and back: bfloat16 as bits, and metadata, which may be a whole program, as an array of letters."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from laconic.errors import LaconicError
from laconic.files import write_bytes
from laconic.pack import reader
from laconic.pack.loops import loops
from laconic.pack.writer import Array
from laconic.program import sealed

METADATA = ".metadata"  # the array that holds the file's metadata as JSON
_BFLOAT16 = "bfloat16"  # in the header: names of tensors whose bits are stored as whole numbers of 16


def read_arrays(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays of a `.safetensors` file, and what a header must say beside them.

    Raises:
        LaconicError: there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise LaconicError(f"there is no file {path} to pack")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LaconicError(f"{path} is damaged or no .safetensors file: {error}") from None
    bits = [name for name, tensor in tensors.items() if tensor.dtype == torch.bfloat16]
    arrays: dict[str, Array] = {
        name: (tensor.view(torch.int16) if name in bits else tensor).contiguous().numpy() for name, tensor in tensors.items()
    }
    if metadata:
        text = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
        arrays[METADATA] = np.frombuffer(text.encode("ascii"), np.uint8)
    return arrays, {_BFLOAT16: bits} if bits else {}


def read_lac(path: Path, limit: int = reader.LIMIT) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return header and arrays of a `.lac` file.

    Raises:
        LaconicError: there is no such file, it is damaged, or its arrays take more memory than `limit` bytes.
    """
    if not path.is_file():
        raise LaconicError(f"there is no file {path} to unpack")
    try:
        header, arrays = reader.contents(path, limit, loops())
    except reader.CorruptArtifact as error:
        raise LaconicError(f"{path}: {error}") from None
    return header, arrays


def write_arrays(path: Path, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    """Write arrays as a `.safetensors` file; the metadata of a program are sealed anew, since its tensors may have lost bits."""
    bits = set(about.get(_BFLOAT16, ()))
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items() if name != METADATA}
    tensors = {name: tensor.view(torch.bfloat16) if name in bits else tensor for name, tensor in tensors.items()}
    metadata = json.loads(arrays[METADATA].tobytes()) if METADATA in arrays else None
    write_bytes(path, save(tensors, sealed(metadata, tensors) if metadata else None))
