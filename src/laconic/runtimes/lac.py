"""Packed files, for bytes alone: every form of a program is kept in the file, decoded when it is loaded, and computed densely by torch.

Nothing runs faster for it, so it is no candidate where the fastest runtime is looked for.
"""

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laconic.errors import LaconicError
from laconic.runtimes.onnx_graph import Counts

if TYPE_CHECKING:
    from torch import Tensor

    from laconic.pack.file import Packed
    from laconic.pack.programs import Arrays
    from laconic.program import Program


class _Every(frozenset[str]):
    """The set of all forms, those of the future included."""

    def __contains__(self, word: object) -> bool:
        return True


PACKAGE = "torch"
SUFFIX = ".lac"
STATES = 8  # of the trellis; more are slower to write and a little smaller
KEEPS: frozenset[str] = _Every()
__all__ = ["KEEPS", "PACKAGE", "STATES", "SUFFIX", "Network", "Written", "count", "export", "export_within", "load", "version", "write"]


@dataclass(frozen=True)
class Written:
    """What a written file holds."""

    path: Path
    integer_tensors: int  # weights that are stored as codes
    integer_kernels: int  # none: they are decoded before the network runs
    difference: float  # root mean square difference of the outputs from the program's, relative to their root mean square
    baked: tuple[str, ...]  # nothing
    bits_per_weight: float  # of the whole file
    tensor_bytes: dict[str, int]  # by the names of the file's arrays


def version() -> str:
    """Return the version of what executes the network."""
    import torch

    return f"torch {torch.__version__}"


def export(program: "Program", example: "tuple[Tensor, ...]", path: Path) -> Written:
    """Write `program` to `path` to the bit, and check the file.

    Args:
        program: all its forms are kept; see `laconic.pack.programs`.
        example: inputs with a batch of 2 or more, to compare outputs on.
        path: the `.lac` file, written whole or not at all.

    Raises:
        LaconicError: the program cannot be written, its outputs are not finite, or a check of the file fails.
    """
    from laconic.pack.file import pack_exactly
    from laconic.pack.programs import arrays_of

    arrays = arrays_of(program)
    return write(program, example, path, arrays, pack_exactly(arrays.arrays, {}, arrays.weights), limit=0.0)


def export_within(program: "Program", example: "tuple[Tensor, ...]", path: Path, max_bytes: int) -> Written:
    """Write `program` to `path` with the least error in its weights that fits in so many bytes.

    Args:
        program: forms that are codes are kept to the bit.
        example: inputs with a batch of 2 or more; how far outputs move on them is told, and no error.
        path: the `.lac` file, written whole or not at all.
        max_bytes: of the file.

    Raises:
        UnreachableError: the file is larger with all weights zero.
        LaconicError: as `export`.
    """
    from laconic.pack.file import closest, coder_of
    from laconic.pack.programs import arrays_of

    arrays = arrays_of(program)
    coder = coder_of(arrays.arrays, {}, STATES, arrays.weights, arrays.exact)
    entries = sum(arrays.arrays[name].size for name in arrays.weights)
    return write(program, example, path, arrays, closest(coder, 8 * max_bytes / entries), limit=float("inf"))


def write(program: "Program", example: "tuple[Tensor, ...]", path: Path, arrays: "Arrays", packed: "Packed", limit: float) -> Written:
    """Write a packed program to `path`, and compare what it computes.

    Args:
        program: what was packed.
        example: its inputs.
        path: the file.
        arrays: what the program was taken apart into.
        packed: these, packed.
        limit: by how much its outputs may differ, relative to their size.

    Raises:
        LaconicError: its outputs are not finite, or the file's differ by more.
    """
    from laconic.files import whole_file

    with whole_file(path) as temporary:
        temporary.write_bytes(packed.data)
        difference = _difference(load(temporary), Network(program), example)
        if difference > limit:
            raise LaconicError(f"{path.name}: outputs differ from the program's by {difference:.2g} of their size; please report this")
    codes = sum(name.endswith(".codes") for name in arrays.weights)
    return Written(path, codes, 0, difference, (), packed.bits_per_weight, {row.name: row.bytes for row in packed.rows})


def _difference(found: "Network", wanted: "Network", example: "tuple[Tensor, ...]") -> float:
    inputs = [tensor.numpy() for tensor in example]
    outputs, expected = found(*inputs).astype(np.float64), wanted(*inputs).astype(np.float64)
    if not np.isfinite(expected).all():
        raise LaconicError("the network's outputs are not finite numbers on the example inputs; check the weights and the data")
    size = float(np.sqrt(np.square(expected).mean()))
    return float(np.sqrt(np.square(outputs - expected).mean())) / max(size, 1e-12)


def load(path: Path, threads: int = 1) -> "Network":
    """Decode a file and return its network.

    Raises:
        LaconicError: the file is missing, damaged, of a newer version, or holds tensors alone.
    """
    from laconic.pack.network import read_program

    return Network(read_program(path), threads)


class Network:
    """A program as a callable on arrays, its weights dense."""

    def __init__(self, program: "Program", threads: int = 1) -> None:
        from laconic.program import bake, clone
        from laconic.program.represent import represented

        self.program, self.threads = clone(program).eval(), threads
        for name, _ in list(represented(self.program)):
            bake(self.program, name)

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return the first output for inputs of shape `(batch, ...)`."""
        output = self._run(self.program, inputs)
        found: NDArray[np.float32] = (output[0] if isinstance(output, tuple) else output).numpy()
        return found

    def layer_seconds(self, *inputs: NDArray[Any], calls: int) -> dict[str, float]:
        """Return the seconds that one call spends in each layer, by its weight's name without ".weight"; "" is the rest.

        What follows a layer up to the next one counts to it.
        """
        from torch import fx

        from laconic.program import weights

        layers = {node.name: weight.name.removesuffix(".weight") for weight in weights(self.program) for node in weight.readers}
        spent, current = defaultdict[str, float](float), ""

        class Clock(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                nonlocal current
                start = time.perf_counter()
                result = super().run_node(n)
                current = layers.get(n.name, current)
                spent[current] += time.perf_counter() - start
                return result

        clock = Clock(self.program)
        for _ in range(calls):
            current = ""
            self._run(clock.run, inputs)
        return {name: seconds / calls for name, seconds in spent.items()}

    def layer_kernels(self, *_: NDArray[Any]) -> dict[str, str]:
        """Return the operation that multiplies in each layer, by its weight's name without ".weight"."""
        from laconic.program import weights

        return {weight.name.removesuffix(".weight"): weight.kind for weight in weights(self.program)}

    def _run(self, function: Any, inputs: tuple[NDArray[Any], ...]) -> Any:
        """Call a function of tensors on arrays, with the threads that are this network's."""
        import torch

        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self.threads)
            with torch.no_grad():
                return function(*(torch.tensor(array) for array in inputs))
        except (RuntimeError, TypeError, AssertionError) as error:
            takes = ", ".join(f"{entry.name}: {entry.dtype} (batch, {', '.join(map(str, entry.shape))})" for entry in self.program.inputs)
            came = ", ".join(f"{array.dtype} {array.shape}" for array in inputs)
            raise LaconicError(f"the network takes {takes}, but got {came}: {str(error).splitlines()[0][:200]}") from None
        finally:
            torch.set_num_threads(before)


def count(path: Path) -> Counts:
    """Count weights and multiply-accumulates of the network in a file, as decoded."""
    from laconic.measure import macs
    from laconic.program import dense_state, example_of

    program = Network(_read(path)).program
    held = [tensor for tensor in dense_state(program).values() if tensor.ndim and tensor.is_floating_point()]
    nonzero = sum(int(tensor.count_nonzero()) for tensor in held)
    return Counts(sum(tensor.numel() for tensor in held), nonzero, macs(program, example_of(program)))


def _read(path: Path) -> "Program":
    from laconic.pack.network import read_program

    return read_program(path)
