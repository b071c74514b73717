"""From `.safetensors` to arrays and back: bfloat16 as bits, and metadata as an array of letters."""

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
        arrays = {METADATA: np.frombuffer(json.dumps(metadata, separators=(",", ":")).encode("ascii"), np.uint8), **arrays}
    return arrays, {_BFLOAT16: bits} if bits else {}


def holds_program(path: Path) -> bool:
    """Say whether a `.safetensors` file is a saved program; of what cannot be read, no."""
    try:
        with safe_open(path, framework="pt") as file:
            return "laconic" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_lac(path: Path, limit: int = reader.LIMIT) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return header and arrays of a `.lac` file.

    Raises:
        LaconicError: there is no such file, it is damaged, or its arrays take more memory than `limit` bytes.
    """
    if not path.is_file():
        raise LaconicError(f"there is no file {path}")
    try:
        header, arrays = reader.contents(path, limit, loops())
    except reader.CorruptArtifact as error:
        raise LaconicError(f"{path}: {error}") from None
    return header, arrays


def write_arrays(path: Path, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    """Write arrays as a `.safetensors` file.

    Raises:
        LaconicError: the metadata are none that `read_arrays` made.
    """
    bits = set(about.get(_BFLOAT16, ()))
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items() if name != METADATA}
    tensors = {name: tensor.view(torch.bfloat16) if name in bits else tensor for name, tensor in tensors.items()}
    try:
        metadata = json.loads(arrays[METADATA].tobytes()) if METADATA in arrays else None
        written = save(tensors, metadata)
    except (ValueError, TypeError) as error:
        raise LaconicError(f"the metadata in {METADATA!r} are not those of a .safetensors file: {error}; pack it again") from None
    write_bytes(path, written)
