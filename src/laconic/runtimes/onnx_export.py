"""Networks as ONNX files: written by PyTorch's exporter from the lowered program, and held to what was promised, whatever executes them."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laconic.errors import LaconicError
from laconic.runtimes.onnx_blocks import blocks_in
from laconic.runtimes.onnx_graph import codes_of

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

    from laconic.program import Program
    from laconic.program.lower import Lowered

OPSET, OPSET_OF_NARROW = 20, 21  # the second is the first that has 4-bit tensors, and blocks with a scale each


@dataclass(frozen=True)
class Exported:
    """What the written file holds, as counted in it."""

    path: Path
    integer_tensors: int  # weight tensors stored as whole numbers
    integer_share: float  # share of all weight entries that are stored as whole numbers
    kernels: dict[str, int]  # what the runtime executed, by kernel name
    integer_kernels: int  # how many of them read integers where they multiply
    difference: float  # root mean square difference of the outputs from the program's, relative to their root mean square
    baked: tuple[str, ...]  # what is written dense because the runtime does not execute its form


def to_onnx(program: "Program", example: "tuple[Tensor, ...]", opset: int) -> "onnx.ModelProto":
    """Write a lowered program as ONNX.

    Raises:
        LaconicError: the exporter refuses the network.
    """
    import torch
    from onnxscript import opset20, opset21

    from laconic.program.lower import clip, dequantize, quantize

    operations = opset21 if opset >= OPSET_OF_NARROW else opset20

    def quantize_linear(x: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return operations.QuantizeLinear(x, scale, zero_point, axis=axis)

    def dequantize_linear(codes: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        blocked = len(scale.shape) == len(codes.shape) > 1
        block = {"block_size": codes.shape[axis] // scale.shape[axis]} if blocked else {}
        return operations.DequantizeLinear(codes, scale, zero_point, axis=axis, **block)

    def clip_codes(codes: Any, low: Any, high: Any) -> Any:
        return operations.Clip(codes, low, high)

    batch = torch.export.Dim.DYNAMIC
    logging.disable(logging.WARNING)  # the exporter warns that torchvision is not there; it is not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        try:
            exported = torch.export.export(program, example, dynamic_shapes=tuple({0: batch} for _ in example))
            table: dict[Any, Any] = {quantize: quantize_linear, dequantize: dequantize_linear, clip: clip_codes}
            written = torch.onnx.export(exported, dynamo=True, verbose=False, opset_version=opset, custom_translation_table=table)
        except Exception as error:  # whatever the exporter raises
            raise LaconicError(f"the network cannot be written as ONNX: {_root(error)}") from error
        finally:
            logging.disable(logging.NOTSET)
    assert written is not None
    return written.model_proto


def _root(error: BaseException) -> str:
    """Name the first of a chain of errors: the exporter wraps it several times in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def check(
    program: "Program",
    example: "tuple[Tensor, ...]",
    path: Path,
    lowered: "Lowered",
    outputs: NDArray[np.float32],
    kernels: dict[str, int],
    integer_kernels: int,
    executed_by: str,
    remedy: str = "please report this",
) -> Exported:
    """Compare a written file, and what a runtime made of it, with what was promised.

    Args:
        program: what was exported.
        example: its inputs.
        path: the file.
        lowered: what the file was written from.
        outputs: of the file on `example`.
        kernels: what was executed, counted by name.
        integer_kernels: how many of them read integers.
        executed_by: the runtime and its version, for messages.
        remedy: what to do where the outputs differ.

    Raises:
        LaconicError: integers are missing in the file, none was executed, or the outputs differ.
    """
    integer_tensors, integer_share = _integer_tensors(path)
    difference, expected_integers = _difference(program, example, outputs), len(lowered.integer_weights)
    exported = Exported(path, integer_tensors, integer_share, kernels, integer_kernels, difference, lowered.baked)
    if integer_tensors < expected_integers:
        raise LaconicError(
            f"{path.name}: {expected_integers} integer weights were promised, the file holds {integer_tensors}; please report this"
        )
    if expected_integers and not exported.integer_kernels:
        raise LaconicError(
            f"{path.name}: the weights are integers but {executed_by} ran no integer kernel: {kernels}; quantize activations too"
        )
    tolerance = 0.1 if expected_integers else 1e-3  # a code that falls on the other side of a tie moves by a whole level
    if expected_integers and difference > tolerance:
        tolerance = max(tolerance, 2 * unrest(program, example))
    if difference > tolerance:
        raise LaconicError(
            f"{path.name}: outputs differ from the program's by {difference:.2g} of their size; more than {tolerance:.2g}; {remedy}"
        )
    return exported


def _integer_tensors(path: Path) -> tuple[int, float]:
    import onnx

    model = onnx.load(path)
    sizes = {tensor.name: (int(np.prod(tensor.dims)), tensor.data_type) for tensor in model.graph.initializer}
    kinds = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT4, onnx.TensorProto.UINT4)  # biases are 32-bit
    entries = {name: sizes[name][0] for name in codes_of(model.graph) if sizes[name][1] in kinds}
    entries |= {name: len(blocks.scale) * blocks.inputs for name, blocks in blocks_in(model.graph).items()}
    floats = sum(size for size, kind in sizes.values() if kind == onnx.TensorProto.FLOAT)
    integers = sum(entries.values())
    return len(entries), integers / max(integers + floats, 1)


def unrest(program: "Program", example: "tuple[Tensor, ...]") -> float:
    """Return how far the program's own outputs move when its inputs do by about a level of 8 bits, relative to their size.

    In deep networks of few bits codes at ties pull others along: no two correct implementations agree on them.
    """
    import torch

    generator = torch.Generator().manual_seed(0)

    def nudged(each: "Tensor") -> "Tensor":
        noise = torch.randn(each.shape, generator=generator)
        return each + noise.to(each) * each.abs().max() / 255 if each.is_floating_point() else each

    return _difference(program, example, _outputs(program, tuple(nudged(each) for each in example)))


def _outputs(program: "Program", inputs: "tuple[Tensor, ...]") -> NDArray[np.float32]:
    import torch

    from laconic.program import clone

    with torch.no_grad():
        result = clone(program).eval()(*inputs)
    outputs: NDArray[np.float32] = (result[0] if isinstance(result, tuple) else result).numpy()
    return outputs


def _difference(program: "Program", example: "tuple[Tensor, ...]", outputs: NDArray[np.float32]) -> float:
    """Return the root mean square difference of the outputs, relative to their root mean square."""
    expected = _outputs(program, example)
    if not np.isfinite(expected).all():
        raise LaconicError("the network's outputs are not finite numbers on the example inputs; check the weights and the data")
    size = float(np.sqrt((expected.astype(np.float64) ** 2).mean()))
    return float(np.sqrt(((outputs - expected).astype(np.float64) ** 2).mean())) / max(size, 1e-12)
