"""ONNX Runtime, the embedded default: float32, and truly integer networks (u8 activations, s8 weights) in QDQ form.

The file is written by PyTorch's ONNX exporter from the lowered program, then checked: integer tensors where integers were
promised, outputs equal to the program's, integer kernels in the runtime's own profile.
"""

import json
import os
import tempfile
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laconic.errors import LaconicError
from laconic.files import whole_file
from laconic.runtimes import onnx_profile
from laconic.runtimes.onnx_blocks import write_in_blocks
from laconic.runtimes.onnx_export import OPSET, OPSET_OF_NARROW, Exported, check, to_onnx
from laconic.runtimes.onnx_graph import (
    Counts,
    count,
    fits_4_bits,
    fuse_padding,
    make_compact,
    quantize_biases,
    shift_weights,
    store_in_4_bits,
)

if TYPE_CHECKING:
    from torch import Tensor

    from laconic.program import Program
    from laconic.program.lower import Lowered

PACKAGE = "onnxruntime"
_INTEGERS = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in range(1, 9))
KEEPS = _INTEGERS | {f"{grouped}{name} weights" for name in (*_INTEGERS, "ternary", "binary") for grouped in ("", "grouped ")}
SUFFIX = ".onnx"
__all__ = ["KEEPS", "PACKAGE", "SUFFIX", "Counts", "Exported", "Session", "count", "export", "load", "version"]

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


def version() -> str:
    """Return the runtime's version."""
    return str(_package().__version__)


def _package() -> Any:
    """Import the runtime with its usage reports switched off."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


@cache
def saturates() -> bool:
    """Say whether sums of unsigned times signed 8-bit codes overflow here, as on x86 processors without an 8-bit dot product (VNNI)."""
    from onnx import TensorProto, helper

    given = [helper.make_tensor_value_info("a", TensorProto.UINT8, [1, 4]), helper.make_tensor_value_info("b", TensorProto.INT8, [4, 1])]
    wanted = helper.make_tensor_value_info("c", TensorProto.INT32, [1, 1])
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["c"])], "probe", given, [wanted])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    product = _session(model.SerializeToString(), 1).run(None, {"a": np.full((1, 4), 255, np.uint8), "b": np.full((4, 1), 127, np.int8)})[0]
    return int(product[0, 0]) != 4 * 255 * 127


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
    model = to_onnx(lowered.program, example, OPSET_OF_NARROW if narrow or grouped else OPSET)
    fuse_padding(model.graph)
    write_in_blocks(model)
    quantize_biases(model.graph)
    if saturates():
        shift_weights(model.graph)
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


def _checked(program: "Program", example: "tuple[Tensor, ...]", path: Path, lowered: "Lowered") -> Exported:
    """Open the file afresh and compare it with what was promised."""
    kernels, outputs = _run_profiled(path, [tensor.numpy() for tensor in example])
    integer_kernels = sum(count for name, count in kernels.items() if name.startswith(_INTEGER_KERNELS))
    return check(program, example, path, lowered, outputs, kernels, integer_kernels, f"ONNX Runtime {version()}")


def _run_profiled(path: Path, inputs: list[NDArray[Any]]) -> tuple[dict[str, int], NDArray[np.float32]]:
    with tempfile.TemporaryDirectory() as folder:
        session = Session(path, profile=Path(folder) / "profile")
        outputs = session(*inputs)
        events = json.loads(Path(session.session.end_profiling()).read_text())
    ran = [event["args"]["op_name"] for event in events if event.get("cat") == "Node" and event["name"].endswith("kernel_time")]
    return dict(Counter(ran)), outputs
