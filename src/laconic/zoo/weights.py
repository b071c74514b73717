"""Weights from a file into a network: all of them, of the right shapes, finite; never by running a pickle."""

import difflib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from laconic.errors import LaconicError
from laconic.zoo.llama2c import read_llama2c

_SHOWN = 5
_HOW = (
    "save one with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') or torch.save(model.state_dict(), 'weights.pt')"
)


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Fill `model` in place with the weights in `path`; when they do not fit, it stays as it was.

    Args:
        model: its parameters and buffers must be exactly the tensors of the file; only batch norm's step counters may lack.
        path: `.safetensors`; `.pt` or `.pth` with a state dict, alone or under "state_dict"; or `.bin`, either such a one or llama2.c's.

    Raises:
        LaconicError: as `read_weights`; tensors that are missing, unexpected, of another shape, or not finite.
    """
    path = Path(path)
    state = read_weights(path)
    expected = model.state_dict()
    _check_names(expected, state, path)
    _check_shapes(expected, state, path)
    _check_finite(state, path)
    model.load_state_dict(state, strict=False)  # the names are checked above


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file, by name, on the CPU.

    Raises:
        LaconicError: no such file, another kind of file, a damaged one, or one that only a pickle could read.
    """
    if not path.is_file():
        raise LaconicError(f"no weights file {path.absolute()}")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in (".pt", ".pth"):
        return _checkpoint(path)
    if path.suffix == ".bin":
        return _checkpoint(path) if zipfile.is_zipfile(path) else read_llama2c(path)
    raise LaconicError(f"weights must be a .safetensors, .pt or .pth file, or a .bin of torch.save or llama2.c; got {path.name}; {_HOW}")


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise LaconicError(f"{path} is not a whole safetensors file: {error}") from error
    return tensors


def _checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        if zipfile.is_zipfile(path) and (damaged := zipfile.ZipFile(path).testzip()):  # torch does not look at the checksums
            raise ValueError(f"{damaged} has another checksum")
        with warnings.catch_warnings(action="ignore"):  # about pickles, of which the errors below speak
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises is not limited
        raise _unreadable(path, error) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise LaconicError(f"{path} must hold a state dict (names to tensors), alone or under 'state_dict'; {_HOW}")
    return dict(content)


def _unreadable(path: Path, error: Exception) -> LaconicError:
    reason = f": {str(error)[:200] or type(error).__name__}"
    if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to run the pickle
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            return LaconicError(f"{path} holds a {named[1]} and could only be read by running its pickle, which is not safe; {_HOW}")
        reason = ""
    return LaconicError(f"{path} is not a whole file of torch.save{reason}; {_HOW}")


def _check_names(expected: Iterable[str], given: Iterable[str], path: Path) -> None:
    missing = [name for name in expected if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in expected]
    lines = [f"{len(missing)} missing: {_listed(missing, unexpected)}"] if missing else []
    lines += [f"{len(unexpected)} not in the network: {_listed(unexpected, missing)}"] if unexpected else []
    if lines:
        raise LaconicError(f"the weights {path} are not of this network: {'; '.join(lines)}")


def _listed(names: list[str], others: list[str]) -> str:
    """Name the first few of `names`, each with the nearest one of `others`."""
    shown = []
    for name in names[:_SHOWN]:
        near = difflib.get_close_matches(name, others, n=1)
        shown.append(f"{name} (near: {near[0]})" if near else name)
    return ", ".join(shown) + (", ..." if len(names) > _SHOWN else "")


def _check_shapes(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path) -> None:
    wrong = [
        f"{name} is {tuple(tensor.shape)}, the network's is {tuple(expected[name].shape)}"
        for name, tensor in given.items()
        if tensor.shape != expected[name].shape
    ]
    if wrong:
        more = ", ..." if len(wrong) > _SHOWN else ""
        raise LaconicError(f"{len(wrong)} weights of {path} have another shape: {', '.join(wrong[:_SHOWN])}{more}")


def _check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        broken = int((~torch.isfinite(tensor)).sum())
        if broken:
            raise LaconicError(f"{broken} of {tensor.numel()} numbers of {name!r} in {path} are NaN or infinite; train or save it again")
