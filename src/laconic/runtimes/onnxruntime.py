"""ONNX Runtime, the embedded default: float32, and truly integer networks (u8 activations, s8 weights) in QDQ form.

The file is written by PyTorch's ONNX exporter from the lowered program, then checked: integer tensors where integers were promised, outputs equal to
the program's, integer kernels in the runtime's own profile.
"""

import json
import logging
import os
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laconic.errors import LaconicError
from laconic.files import whole_file

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

    from laconic.program import Program

PACKAGE = "onnxruntime"
KEEPS = frozenset({"int8", "uint8"})
SUFFIX = ".onnx"
_OPSET = 20
_INTEGER_KERNELS = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "MatMulNBits", "QAttention")


@dataclass(frozen=True)
class Exported:
    """What the written file holds, as counted in it."""

    path: Path
    integer_tensors: int  # weight tensors stored as whole numbers
    integer_share: float  # share of all weight entries that are stored as whole numbers
    kernels: dict[str, int]  # what the runtime executed, by kernel name
    difference: float  # root mean square difference of the outputs from the program's, relative to their root mean square
    baked: tuple[str, ...]  # what is written dense because the runtime does not execute its form

    @property
    def integer_kernels(self) -> int:
        """How many of the executed kernels compute on integers."""
        return sum(count for name, count in self.kernels.items() if name.startswith(_INTEGER_KERNELS))


def version() -> str:
    """Return the runtime's version."""
    return str(_package().__version__)


def _package() -> Any:
    """Import the runtime with its usage reports switched off."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def export(program: "Program", example: "tuple[Tensor, ...]", path: Path) -> Exported:
    """Write `program` to `path` as ONNX and check the file.

    Args:
        program: quantizers of 8 bits become integer tensors and QDQ operations; all other representations are written dense, and said so.
        example: inputs with a batch of 2 or more; the file takes any batch.
        path: the `.onnx` file, written whole or not at all.

    Raises:
        LaconicError: the exporter or the runtime refuses the network, or a post-condition fails on the file.
    """
    from laconic.program.lower import lower

    lowered = lower(program, KEEPS)
    model = _to_onnx(lowered.program, example)
    _make_compact(model)
    with whole_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    exported = _checked(program, example, path, lowered.baked, expected_integers=len(lowered.integer_weights))
    return exported


def unsupported(program: "Program") -> tuple[str, ...]:
    """Say which representations of a program this runtime does not execute as such: they are written dense."""
    from laconic.program.lower import unsupported

    return unsupported(program, KEEPS)


def load(path: Path, threads: int = 1) -> "Session":
    """Open a file for inference.

    Raises:
        LaconicError: the file is missing, damaged or not for this runtime.
    """
    return Session(path, threads)


class Session:
    """A network in ONNX Runtime: arrays in, array out."""

    def __init__(self, path: Path, threads: int = 1, profile: Path | None = None) -> None:
        onnxruntime = _package()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        if not path.is_file():
            raise LaconicError(f"there is no network at {path}")
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors share no base class
            raise LaconicError(f"ONNX Runtime cannot read {path}: {str(error).splitlines()[0]}; the file is damaged or not a network") from None
        self.names = [entry.name for entry in self.session.get_inputs()]

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return the first output for inputs of shape `(batch, ...)`."""
        output: NDArray[np.float32] = self.session.run(None, dict(zip(self.names, inputs, strict=True)))[0]
        return output


@dataclass(frozen=True)
class Counts:
    """What a file holds and computes, counted in the file itself."""

    parameters: int
    nonzero_parameters: int
    macs: int  # of one example; convolutions and matrix products


def count(path: Path) -> Counts:
    """Count weights and multiply-accumulates in an ONNX file, independently of the program it was written from."""
    import onnx
    from onnx import numpy_helper, shape_inference

    model = onnx.load(path)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    grids = {name for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear") for name in node.input[1:]}
    codes = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    held = [array for name, array in tensors.items() if name not in grids and (name in codes or array.dtype == np.float32)]
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in [*inferred.value_info, *inferred.output, *inferred.input]}
    shapes |= {name: list(array.shape) for name, array in tensors.items()}
    macs = sum(_macs(node, shapes) for node in model.graph.node)
    return Counts(sum(array.size for array in held), sum(int(np.count_nonzero(array)) for array in held), macs)


def _macs(node: "onnx.NodeProto", shapes: dict[str, list[int]]) -> int:
    """Output entries times the length of the sum behind each."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    output, weight = shapes.get(node.output[0], [0]), shapes.get(node.input[1], [0])
    if node.op_type == "Conv":
        return int(np.prod(output) * np.prod(weight[1:]))
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return int(np.prod(output) * (weight[-1] if transposed else weight[-2]))


def _to_onnx(program: "Program", example: "tuple[Tensor, ...]") -> "onnx.ModelProto":
    import torch
    from onnxscript import opset20

    from laconic.program.lower import dequantize, quantize

    def quantize_linear(x: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return opset20.QuantizeLinear(x, scale, zero_point, axis=axis)

    def dequantize_linear(codes: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return opset20.DequantizeLinear(codes, scale, zero_point, axis=axis)

    batch = torch.export.Dim.DYNAMIC
    logging.disable(logging.WARNING)  # the exporter warns that torchvision is not there; it is not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        try:
            exported = torch.export.export(program, example, dynamic_shapes=tuple({0: batch} for _ in example))
            table = {quantize: quantize_linear, dequantize: dequantize_linear}
            written = torch.onnx.export(exported, dynamo=True, verbose=False, opset_version=_OPSET, custom_translation_table=table)
        except Exception as error:  # whatever the exporter raises
            reason = str(error).strip().split("\n")[0][:300]
            raise LaconicError(f"the network cannot be written as ONNX: {type(error).__name__}: {reason}") from error
        finally:
            logging.disable(logging.NOTSET)
    assert written is not None
    return written.model_proto


def _make_compact(model: "onnx.ModelProto") -> None:
    """Drop what only a debugger reads and shorten inner names; inputs, outputs and weights keep theirs."""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    model.graph.doc_string = model.doc_string = ""
    kept = {value.name for part in (model.graph.input, model.graph.output, model.graph.initializer) for value in part} | {""}
    inner = {name: f"v{i}" for i, name in enumerate(dict.fromkeys(name for node in model.graph.node for name in node.output if name not in kept))}
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]
    for node in model.graph.node:
        node.name = node.doc_string = ""
        del node.metadata_props[:]
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
    for value in [*model.graph.input, *model.graph.output]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = "batch"


def _checked(program: "Program", example: "tuple[Tensor, ...]", path: Path, baked: tuple[str, ...], expected_integers: int) -> Exported:
    """Open the file afresh and compare it with what was promised."""
    integer_tensors, integer_share = _integer_tensors(path)
    kernels, outputs = _run_profiled(path, [tensor.numpy() for tensor in example])
    difference = _difference(program, example, outputs)
    exported = Exported(path, integer_tensors, integer_share, kernels, difference, baked)
    if integer_tensors < expected_integers:
        raise LaconicError(f"{path}: {expected_integers} integer weights were promised, the file holds {integer_tensors}; please report this")
    if expected_integers and not exported.integer_kernels:
        raise LaconicError(f"{path}: the weights are integers but ONNX Runtime {version()} ran no integer kernel: {kernels}; quantize activations too")
    tolerance = 0.1 if expected_integers else 1e-3  # a code that falls on the other side of a tie moves by a whole level
    if difference > tolerance:
        raise LaconicError(f"{path}: outputs differ from the program's by {difference:.2g} of their size; more than {tolerance}; please report this")
    return exported


def _integer_tensors(path: Path) -> tuple[int, float]:
    import onnx

    model = onnx.load(path)
    sizes = {tensor.name: (int(np.prod(tensor.dims)), tensor.data_type) for tensor in model.graph.initializer}
    codes = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"} & set(sizes)
    floats = sum(size for size, kind in sizes.values() if kind == onnx.TensorProto.FLOAT)
    integers = sum(sizes[name][0] for name in codes)
    return len(codes), integers / max(integers + floats, 1)


def _run_profiled(path: Path, inputs: list[NDArray[Any]]) -> tuple[dict[str, int], NDArray[np.float32]]:
    with tempfile.TemporaryDirectory() as folder:
        session = Session(path, profile=Path(folder) / "profile")
        outputs = session(*inputs)
        events = json.loads(Path(session.session.end_profiling()).read_text())
    ran = [event["args"]["op_name"] for event in events if event.get("cat") == "Node" and event["name"].endswith("kernel_time")]
    return dict(Counter(ran)), outputs


def _difference(program: "Program", example: "tuple[Tensor, ...]", outputs: NDArray[np.float32]) -> float:
    """Return the root mean square difference of the outputs, relative to their root mean square."""
    import torch

    from laconic.program import clone

    with torch.no_grad():
        result = clone(program).eval()(*example)
    expected = (result[0] if isinstance(result, tuple) else result).numpy()
    if not np.isfinite(expected).all():
        raise LaconicError("the network's outputs are not finite numbers on the example inputs; check the weights and the data")
    size = float(np.sqrt((expected.astype(np.float64) ** 2).mean()))
    return float(np.sqrt(((outputs - expected).astype(np.float64) ** 2).mean())) / max(size, 1e-12)
