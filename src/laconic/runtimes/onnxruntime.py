"""ONNX Runtime, the embedded default: float32, and truly integer networks (u8 activations, s8 weights) in QDQ form.

The file is written by PyTorch's ONNX exporter from the lowered program, then checked: integer tensors where integers were
promised, outputs equal to the program's, integer kernels in the runtime's own profile.
"""

import json
import logging
import os
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laconic.errors import LaconicError
from laconic.files import whole_file
from laconic.runtimes import onnx_profile
from laconic.runtimes.onnx_blocks import blocks_in, write_in_blocks
from laconic.runtimes.onnx_graph import Counts, codes_of, count, fits_4_bits, fuse_padding, make_compact, quantize_biases, store_in_4_bits

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

    from laconic.program import Program
    from laconic.program.lower import Lowered

PACKAGE = "onnxruntime"
_INTEGERS = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in range(1, 9))
KEEPS = _INTEGERS | {f"{grouped}{name} weights" for name in (*_INTEGERS, "ternary", "binary") for grouped in ("", "grouped ")}
SUFFIX = ".onnx"
__all__ = ["KEEPS", "PACKAGE", "SUFFIX", "Counts", "Exported", "Session", "check", "count", "export", "load", "to_onnx", "version"]

_OPSET, _OPSET_OF_NARROW = 20, 21  # the second is the first that has 4-bit tensors
_INTEGER_KERNELS = (
    "QLinear",
    "QGemm",
    "MatMulInteger",
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulNBits",
    "GatherBlockQuantized",
    "QAttention",
)


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
        program: quantizers in `KEEPS` become integer tensors and QDQ operations or blocks; the rest is written dense, and said so.
        example: inputs with a batch of 2 or more; the file takes any batch.
        path: the `.onnx` file, written whole or not at all.

    Raises:
        LaconicError: the exporter or the runtime refuses the network, or a post-condition fails on the file.
    """
    from laconic.program import read
    from laconic.program.lower import lower, spell_out_attention
    from laconic.program.represent import represented

    lowered = lower(program, KEEPS)
    spell_out_attention(lowered.program)
    narrow = any(fits_4_bits(read(lowered.program, name).numpy()) for name in lowered.integer_weights)
    grouped = any(form.name.startswith("grouped ") for _, forms in represented(program) for form in forms)
    model = to_onnx(lowered.program, example, _OPSET_OF_NARROW if narrow or grouped else _OPSET)
    fuse_padding(model.graph)
    write_in_blocks(model)
    quantize_biases(model.graph)
    if narrow:
        store_in_4_bits(model.graph)
    make_compact(model)
    with whole_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        return replace(_checked(program, example, temporary, lowered), path=path)


def load(path: Path, threads: int = 1) -> "Session":
    """Open a file for inference.

    Raises:
        LaconicError: the file is missing, damaged or not for this runtime.
    """
    return Session(path, threads)


class Session:
    """A network in ONNX Runtime: arrays in, array out."""

    def __init__(self, path: Path, threads: int = 1, profile: Path | None = None) -> None:
        if not path.is_file():
            raise LaconicError(f"there is no network at {path}")
        self.path, self.threads = path, threads
        try:
            self.session = _session(str(path), threads, profile)
        except Exception as error:  # the runtime's errors share no base class
            raise LaconicError(
                f"ONNX Runtime cannot read {path}: {str(error).splitlines()[0]}; the file is damaged or not a network"
            ) from None
        self.names = [entry.name for entry in self.session.get_inputs()]

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return the first output for inputs of shape `(batch, ...)`."""
        try:
            output: NDArray[np.float32] = self.session.run(None, dict(zip(self.names, inputs, strict=True)))[0]
        except Exception as error:  # the runtime's errors share no base class
            takes = ", ".join(f"{entry.name}: {entry.type} {entry.shape}" for entry in self.session.get_inputs())
            came = ", ".join(f"{array.dtype} {array.shape}" for array in inputs)
            raise LaconicError(f"the network takes {takes}, but got {came}: {str(error).splitlines()[0][:200]}") from None
        return output

    def layer_seconds(self, *inputs: NDArray[Any], calls: int) -> dict[str, float]:
        """Return the seconds that one call spends in each layer, by its weight's name without ".weight"; "" is the rest.

        What follows a layer up to the next one counts to it. The profile makes each call a little slower, so these are for comparison
        among themselves, not with a latency.
        """
        import onnx

        model = onnx.load(self.path)
        layers = onnx_profile.mark(model)
        with tempfile.TemporaryDirectory() as folder:
            session = _session(model.SerializeToString(), self.threads, Path(folder) / "profile")
            for _ in range(calls):
                session.run(None, dict(zip(self.names, inputs, strict=True)))
            return onnx_profile.seconds(Path(session.end_profiling()), layers)

    def layer_kernels(self, *inputs: NDArray[Any]) -> dict[str, str]:
        """Return the kernel that multiplies in each layer, by its weight's name without ".weight"."""
        import onnx

        model = onnx.load(self.path)
        layers = onnx_profile.mark(model)
        with tempfile.TemporaryDirectory() as folder:
            session = _session(model.SerializeToString(), self.threads, Path(folder) / "profile")
            session.run(None, dict(zip(self.names, inputs, strict=True)))
            return onnx_profile.kernels(Path(session.end_profiling()), layers)


def _session(network: str | bytes, threads: int, profile: Path | None = None) -> Any:
    onnxruntime = _package()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def to_onnx(program: "Program", example: "tuple[Tensor, ...]", opset: int) -> "onnx.ModelProto":
    """Write a lowered program as ONNX.

    Raises:
        LaconicError: the exporter refuses the network.
    """
    import torch
    from onnxscript import opset20, opset21

    from laconic.program.lower import clip, dequantize, quantize

    operations = opset21 if opset >= _OPSET_OF_NARROW else opset20

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


def _checked(program: "Program", example: "tuple[Tensor, ...]", path: Path, lowered: "Lowered") -> Exported:
    """Open the file afresh and compare it with what was promised."""
    kernels, outputs = _run_profiled(path, [tensor.numpy() for tensor in example])
    integer_kernels = sum(count for name, count in kernels.items() if name.startswith(_INTEGER_KERNELS))
    return check(program, example, path, lowered, outputs, kernels, integer_kernels, f"ONNX Runtime {version()}")


def check(
    program: "Program",
    example: "tuple[Tensor, ...]",
    path: Path,
    lowered: "Lowered",
    outputs: NDArray[np.float32],
    kernels: dict[str, int],
    integer_kernels: int,
    executed_by: str,
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
        tolerance = max(tolerance, 2 * _unrest(program, example))
    if difference > tolerance:
        raise LaconicError(
            f"{path.name}: outputs differ from the program's by {difference:.2g} of their size; more than {tolerance}; please report this"
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


def _run_profiled(path: Path, inputs: list[NDArray[Any]]) -> tuple[dict[str, int], NDArray[np.float32]]:
    with tempfile.TemporaryDirectory() as folder:
        session = Session(path, profile=Path(folder) / "profile")
        outputs = session(*inputs)
        events = json.loads(Path(session.session.end_profiling()).read_text())
    ran = [event["args"]["op_name"] for event in events if event.get("cat") == "Node" and event["name"].endswith("kernel_time")]
    return dict(Counter(ran)), outputs


def _unrest(program: "Program", example: "tuple[Tensor, ...]") -> float:
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
