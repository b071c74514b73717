"""OpenVINO on the CPU: float32, truly integer networks (u8 activations, s8 weights), and integer weights under float activations.

The file is ONNX in QDQ form, written by the exporter that ONNX Runtime's comes from. OpenVINO's own format is two files, of which the
graph alone takes a megabyte for mobilenet_v2, and it is not read faster (0.1 s of either, before 1 s of compiling; measured).
What the file becomes is checked in the network as OpenVINO compiled it, which tells the precision that each layer is executed in.
"""

from collections import Counter, defaultdict
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from laconic.errors import LaconicError
from laconic.files import whole_file
from laconic.runtimes import onnx_profile
from laconic.runtimes.onnx_export import OPSET_OF_NARROW, Exported, check, to_onnx
from laconic.runtimes.onnx_graph import Counts, count, fits_4_bits, fuse_padding, make_compact, store_in_4_bits
from laconic.runtimes.onnxruntime import saturates
from laconic.runtimes.openvino_graph import clip_before_quantizing, count_examples_by_size, drop_zero_points, store_unsigned_4_bits

if TYPE_CHECKING:
    from torch import Tensor

    from laconic.program import Program

PACKAGE = "openvino"
_INTEGERS = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in range(1, 9))
KEEPS = (
    _INTEGERS
    | {f"{grouped}{form} weights" for form in (*_INTEGERS, "ternary", "binary") for grouped in ("", "grouped ")}
    | {"groups of any size"}
)
SUFFIX = ".onnx"
__all__ = ["KEEPS", "PACKAGE", "SUFFIX", "Counts", "Exported", "Session", "count", "export", "load", "version"]

_Shapes: TypeAlias = tuple[tuple[int, ...], ...]
_MULTIPLY = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_WHOLE_NUMBERS = ("u8", "i8", "u4", "i4")
_MEMORY = ("Const", "Input", "Output", "Reorder")  # of the compiled network's entries: no operation of the file
_SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 32,  # activations before integer weights: 8 bits with a scale for every so many, while it runs
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # on a shared machine a pinned thread waits for whoever else is on its core
}

_OVERFLOW = (
    "this processor has no 8-bit dot product (VNNI), and OpenVINO's sums of 8-bit products overflow on it: "
    "quantize weights to 7 bits (weight_bits: 7), or take onnxruntime"
)


def version() -> str:
    """Return the runtime's version."""
    return str(_package().__version__).partition("-")[0]


def _package() -> Any:
    import openvino

    return openvino


def export(program: "Program", example: "tuple[Tensor, ...]", path: Path) -> Exported:
    """Write `program` to `path` as ONNX and check what OpenVINO makes of the file.

    Args:
        program: quantizers in `KEEPS` become integer tensors; what else there is is written dense, and said so.
        example: inputs with a batch of 2 or more; the file takes any batch.
        path: the `.onnx` file, written whole or not at all.

    Raises:
        LaconicError: the exporter or the runtime refuses the network, or a post-condition fails on the file.
    """
    from laconic.program import read
    from laconic.program.lower import lower, spell_out_attention

    lowered = lower(program, KEEPS)
    spell_out_attention(lowered.program)
    narrow = any(fits_4_bits(read(lowered.program, name).numpy()) for name in lowered.integer_weights)
    model = to_onnx(lowered.program, example, OPSET_OF_NARROW)
    fuse_padding(model.graph)
    count_examples_by_size(model.graph)
    clip_before_quantizing(model.graph)
    store_unsigned_4_bits(model.graph, lowered.narrow_weights)
    drop_zero_points(model.graph)
    if narrow:
        store_in_4_bits(model.graph)
    make_compact(model)
    with whole_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        session = Session(temporary)
        inputs, kernels = [tensor.numpy() for tensor in example], session.kernels()
        one, whole = session(*[array[:1] for array in inputs]), session(*inputs)  # compiled for one alone, and for any batch
        outputs = np.concatenate([one, whole[1:]])
        integer = sum(kernels[f"{kind} {precision}"] for kind in (*_MULTIPLY, "Gather") for precision in _WHOLE_NUMBERS)
        executed_by, remedy = f"OpenVINO {version()}", _OVERFLOW if saturates() else "please report this"
        return replace(check(program, example, temporary, lowered, outputs, dict(kernels), integer, executed_by, remedy), path=path)


def load(path: Path, threads: int = 1) -> "Session":
    """Open a file for inference.

    Raises:
        LaconicError: the file is missing, damaged or not for this runtime.
    """
    return Session(path, threads)


class Session:
    """A network in OpenVINO: arrays in, array out.

    The first inputs have a network compiled for their shapes alone: without looking at shapes between its layers, and with memory planned
    ahead, mobilenet_v2 in int8 takes a sixth less time (measured). Inputs of all other shapes share one that takes any batch.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        if not path.is_file():
            raise LaconicError(f"there is no network at {path}")
        self.path, self.threads = path, threads
        try:
            self._network = _package().Core().read_model(str(path))
        except Exception as error:  # the runtime's errors share no base class
            raise LaconicError(f"OpenVINO cannot read {path}: {_last_line(error)}; the file is damaged or not a network") from None
        self._first: tuple[_Shapes, Any] | None = None  # and what executes inputs of these shapes

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return the first output for inputs of shape `(batch, ...)`."""
        try:
            return _run(self._request(_shapes(inputs)), inputs)
        except LaconicError:
            raise
        except Exception as error:  # the runtime's errors share no base class
            takes = ", ".join(f"{entry.any_name}: {entry.element_type} {entry.partial_shape}" for entry in self._network.inputs)
            came = ", ".join(f"{array.dtype} {array.shape}" for array in inputs)
            raise LaconicError(f"the network takes {takes}, but got {came}: {_last_line(error)}") from None

    def _request(self, shapes: _Shapes) -> Any:
        if self._first is None:
            self._first = shapes, _compiled(self._network, self.threads, shapes).create_infer_request()
        first, request = self._first
        return request if shapes == first else self._of_any_batch

    @cached_property
    def compiled(self) -> Any:
        """The network as compiled for any batch."""
        try:
            return _compiled(self._network, self.threads)
        except Exception as error:  # the runtime's errors share no base class
            raise LaconicError(f"OpenVINO cannot execute {self.path}: {_last_line(error)}") from None

    @cached_property
    def _of_any_batch(self) -> Any:
        return self.compiled.create_infer_request()

    def kernels(self) -> Counter[str]:
        """Count what is executed, by kind of kernel and precision of what it reads: `Convolution u8`, `FullyConnected u4`."""
        return Counter(_kernel(entry) for entry in _entries(self.compiled) if _told(entry, "layerType") not in _MEMORY)

    def layer_seconds(self, *inputs: NDArray[Any], calls: int) -> dict[str, float]:
        """Return the seconds that one call spends in each layer, by its weight's name without ".weight"; "" is the rest.

        What follows a layer up to the next one counts to it. The profile makes each call a little slower, so these are for comparison
        among themselves, not with a latency.
        """
        network, layers = self._marked()
        request = _compiled(network, self.threads, _shapes(inputs), PERF_COUNT=True).create_infer_request()
        spent = defaultdict[str, list[float]](list)
        for _ in range(calls):
            _run(request, inputs)
            for entry in request.get_profiling_info():
                if entry.status == entry.Status.EXECUTED:
                    spent[entry.node_name].append(entry.real_time.total_seconds())
        return onnx_profile.by_layer(spent, layers)

    def layer_kernels(self, *_: NDArray[Any]) -> dict[str, str]:
        """Return the kernel that multiplies in each layer, by its weight's name without ".weight": `Convolution u8`, ..."""
        network, layers = self._marked()
        ran = [entry for entry in _entries(_compiled(network, self.threads)) if _told(entry, "layerType") in _MULTIPLY]
        return onnx_profile.multiplying([(entry.get_friendly_name(), _kernel(entry)) for entry in ran], layers)

    def _marked(self) -> tuple[Any, list[str]]:
        import onnx

        model = onnx.load(self.path)
        layers = onnx_profile.mark(model)
        return _package().Core().read_model(model.SerializeToString()), layers


def _shapes(inputs: tuple[NDArray[Any], ...]) -> _Shapes:
    return tuple(array.shape for array in inputs)


def _compiled(network: Any, threads: int, shapes: _Shapes | None = None, **more: Any) -> Any:
    """Compile a network for any batch, or for inputs of these shapes only."""
    if shapes is not None:
        fixed = [_package().PartialShape(list(shape)) for shape in shapes]
        if not all(entry.partial_shape.compatible(shape) for entry, shape in zip(network.inputs, fixed, strict=True)):
            raise ValueError("they are of another shape")
        network = network.clone()
        network.reshape(dict(enumerate(fixed)))
    return _package().Core().compile_model(network, "CPU", {**_SETTINGS, "INFERENCE_NUM_THREADS": threads, **more})


def _run(request: Any, inputs: tuple[NDArray[Any], ...]) -> NDArray[np.float32]:
    request.infer(list(inputs), share_inputs=True)
    output: NDArray[np.float32] = request.get_output_tensor(0).data.copy()
    return output


def _entries(compiled: Any) -> list[Any]:
    return list(compiled.get_runtime_model().get_ordered_ops())


def _told(entry: Any, what: str) -> str:
    return str(entry.get_rt_info()[what].astype(str))


def _kernel(entry: Any) -> str:
    return f"{_told(entry, 'layerType')} {_told(entry, 'runtimePrecision')}"


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)[:200]
