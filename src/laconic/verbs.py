"""Two of the four verbs: `export`, a program in, a file out; `load`, a file in, a callable on arrays out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.errors import LaconicError
from laconic.runtimes import PACKED, installed, runtime

if TYPE_CHECKING:
    from torch import Tensor

    from laconic.measure import Predict
    from laconic.program import Program


def export(program: "Program", path: Path | str, runtime_name: str = "onnxruntime", example: "tuple[Tensor, ...] | None" = None) -> Any:
    """Write a program for a runtime and check the file.

    Args:
        program: what `compress` returned in `.program`, or a loaded one.
        path: the file to write, whole or not at all; its suffix is the runtime's.
        runtime_name: one of `laconic.runtimes.NAMES`, or `lac`.
        example: real inputs with a batch of 2 or more, to compare the file with the program on; None: random ones.

    Returns:
        What the runtime says of the written file.

    Raises:
        LaconicError: the suffix is another, the network cannot be written, or a check of the file fails.
    """
    from laconic.program import example_of

    module, path = runtime(runtime_name), Path(path)
    if path.suffix != module.SUFFIX:
        raise LaconicError(f"{runtime_name} writes {module.SUFFIX} files; got {path}")
    return module.export(program, example or example_of(program), path)


def load(path: Path | str, threads: int = 1, runtime_name: str | None = None) -> "Predict":
    """Open an exported file as a callable: an array of shape (batch, ...) in (float32, or int64 of token ids), an array of scores out.

    Args:
        path: the file, or a delivered folder.
        threads: of the runtime.
        runtime_name: what executes it; None: the runtime on the receipt of a folder, for a file the first that reads its kind.

    Raises:
        LaconicError: there is no such file, it is damaged, or no runtime reads its kind.
    """
    path = Path(path)
    if path.is_dir():
        from laconic.receipt import read_receipt

        delivered = read_receipt(path).after
        path, runtime_name = path / delivered.file, runtime_name or delivered.runtime
    suffixes = {name: runtime(name).SUFFIX for name in ([runtime_name] if runtime_name else [*installed(), PACKED])}
    for name, suffix in suffixes.items():
        if path.suffix == suffix:
            network: Predict = runtime(name).load(path, threads)
            return network
    raise LaconicError(f"no runtime reads {path}; known kinds: {', '.join(dict.fromkeys(suffixes.values()))}")
