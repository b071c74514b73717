"""Size: parameters of a network as it computes with them, and bytes of a file as it lies on the disk."""

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def parameters(module: "nn.Module", exclude: tuple[str, ...] = ()) -> int:
    """Count the entries of all parameters; a tensor that is used in several places counts once.

    A parametrized tensor counts with its dense view, and what its representation holds (scales, codes, factors) does not count:
    that is a matter of bytes, not of the network.

    Args:
        module: any network.
        exclude: name patterns of submodules that do not count, e.g. ("_edges",) for the activation quantizers of a program.
    """
    return sum(tensor.numel() for tensor in _dense(module, exclude))


def nonzero_parameters(module: "nn.Module", exclude: tuple[str, ...] = ()) -> int:
    """Count the entries of all parameters that are not zero, with the same rules as `parameters`."""
    return sum(int(tensor.count_nonzero()) for tensor in _dense(module, exclude))


def file_bytes(path: Path) -> int:
    """Return the bytes of a file, with those of the `.data` file that ONNX puts beside it for large weights; of a folder, all its files."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    beside = path.with_name(path.name + ".data")
    return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _dense(module: "nn.Module", exclude: tuple[str, ...]) -> Iterator["Tensor"]:
    """Yield every parameter once, parametrized ones as the network sees them."""
    seen: set[tuple[int, ...]] = set()
    left_out = {part for each in module.modules() for part in _representations(each)}
    for name, each in module.named_modules():
        if any(fnmatch(name, pattern) for pattern in exclude):
            left_out.update(each.modules())
    for holder in (each for each in module.modules() if each not in left_out):
        for identity, name in _held(holder):
            if identity not in seen:
                seen.add(identity)
                yield getattr(holder, name).detach()


def _representations(holder: "nn.Module") -> Iterator["nn.Module"]:
    """Yield the modules that stand for the parametrized tensors of `holder`."""
    from torch.nn.utils import parametrize

    if parametrize.is_parametrized(holder):
        yield from holder.parametrizations.modules()  # type: ignore[union-attr]


def _held(holder: "nn.Module") -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield identity and name of every parameter that `holder` itself holds; tied ones have the same identity."""
    from torch.nn.utils import parametrize

    for name, parameter in holder.named_parameters(recurse=False):
        yield (id(parameter),), name
    if parametrize.is_parametrized(holder):
        for name, originals in holder.parametrizations.items():  # type: ignore[operator, union-attr]
            yield tuple(id(tensor) for tensor in (*originals.parameters(recurse=False), *originals.buffers(recurse=False))), name
