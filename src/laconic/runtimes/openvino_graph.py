"""An ONNX graph in the form that OpenVINO executes with integers."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laconic.runtimes.onnx_graph import drop_unread

if TYPE_CHECKING:
    import onnx

_LAYERS = ("Conv", "Gemm", "MatMul", "Add")  # a sum: of a product and its bias, or of branches


def clip_before_quantizing(graph: "onnx.GraphProto") -> None:
    """Bound what a layer computes before it is quantized in place of its codes afterwards, which OpenVINO does inside the layer.

    Rounding keeps order and the bounds are levels of the grid, so both are the same. Elsewhere, behind a concatenation for one,
    OpenVINO (2026.4) would compute something else.
    """
    from onnx import helper, numpy_helper

    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    computed = {node.output[0] for node in graph.node if node.op_type in _LAYERS}
    quantized = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in computed}
    for clip in [node for node in graph.node if node.op_type == "Clip" and node.input[0] in quantized]:
        quantize = quantized[clip.input[0]]
        scale, zero_point = tensors[quantize.input[1]], tensors[quantize.input[2]]
        names = [f"{clip.output[0]}_low", f"{clip.output[0]}_high"]
        for name, limit in zip(names, clip.input[1:3], strict=True):
            bound = (tensors[limit].astype(np.float32) - zero_point.astype(np.float32)) * scale
            graph.initializer.append(numpy_helper.from_array(bound.astype(np.float32), name))
        bounded = helper.make_node("Clip", [quantize.input[0], *names], [f"{clip.output[0]}_bounded"])
        graph.node.insert(list(graph.node).index(quantize), bounded)
        quantize.input[0], quantize.output[0] = bounded.output[0], clip.output[0]
        graph.node.remove(clip)
    drop_unread(graph)


def count_examples_by_size(graph: "onnx.GraphProto") -> None:
    """Compute the number of examples, which a class token is repeated for, from the input's size in place of reading its shape.

    Read as a shape, OpenVINO (2026.4) takes it from what the first convolution computes before its bias is added. That value then has two
    readers, and the addition of the bias, left on its own before a quantizer, is lost.
    """
    from onnx import helper, numpy_helper

    shapes = {value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim] for value in graph.input}
    for node in [node for node in graph.node if node.op_type == "Shape" and node.input[0] in shapes]:
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        entries, name = int(np.prod(shapes[node.input[0]][1:])), node.output[0]
        if (bounds.get("start", 0), bounds.get("end")) != (0, 1) or not entries:  # 0: another axis is of any size too
            continue
        graph.initializer.append(numpy_helper.from_array(np.array([entries], np.int64), f"{name}_per_example"))
        place = list(graph.node).index(node)
        graph.node.insert(place, helper.make_node("Div", [f"{name}_size", f"{name}_per_example"], [name]))
        graph.node.insert(place, helper.make_node("Size", [node.input[0]], [f"{name}_size"]))
        graph.node.remove(node)


def store_unsigned_4_bits(graph: "onnx.GraphProto", names: Iterable[str]) -> None:
    """Store codes, and their zero points, as unsigned 4-bit integers, two to the byte; signed ones are counted from 8 then.

    For these OpenVINO has kernels that multiply in integers, for signed ones (2026.4) in float.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers = {node.input[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for name in names:
        for stored in (tensors[name], tensors[readers[name].input[2]]):
            codes = numpy_helper.to_array(stored)
            stored.CopyFrom(_unsigned(stored.name, codes.astype(np.int16) + (8 if codes.dtype == np.int8 else 0)))


def _unsigned(name: str, codes: NDArray[Any]) -> "onnx.TensorProto":
    from onnx import TensorProto, helper

    pairs = np.pad(codes.ravel(), (0, codes.size % 2)).astype(np.uint8).reshape(-1, 2)
    return helper.make_tensor(name, TensorProto.UINT4, codes.shape, (pairs[:, 0] | pairs[:, 1] << 4).tobytes(), raw=True)


def drop_zero_points(graph: "onnx.GraphProto") -> None:
    """Leave out the zero points of weights where all are 0, which is what no zero points mean."""
    from onnx import numpy_helper

    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) > 2 and node.input[0] in tensors and not np.any(tensors[node.input[2]]):
            del node.input[2]
    drop_unread(graph)
