"""An ONNX graph after the exporter: padding and biases moved into integer kernels, narrow weights packed, names shortened.

And what is in a file, counted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laconic.runtimes.onnx_blocks import write_dense

if TYPE_CHECKING:
    import onnx

_UNIT = 8  # of codes of 4 bits among those of 7
_UNIT_NAME = "unit_of_narrow_codes"
_EXACT_IN_16_BITS = 64  # 2 * 64 * 255 is below 2^15


def fuse_padding(graph: "onnx.GraphProto") -> None:
    """Move zero padding, such as TensorFlow's lopsided "same", into the convolutions that read it; alone it would run in float."""
    from onnx import helper

    for pad in [node for node in graph.node if node.op_type == "Pad"]:
        readers = [node for node in graph.node if pad.output[0] in node.input]
        before = _zero_padding(graph, pad)
        is_output = pad.output[0] in {value.name for value in graph.output}
        if before is None or not readers or is_output or not all(_can_pad(node, pad) for node in readers):
            continue
        for node in readers:
            own = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "pads"), [0] * len(before))
            kept = [attribute for attribute in node.attribute if attribute.name != "pads"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("pads", [a + b for a, b in zip(own, before, strict=True)])])
            node.input[0] = pad.input[0]
        graph.node.remove(pad)
    drop_unread(graph)


def _can_pad(node: "onnx.NodeProto", pad: "onnx.NodeProto") -> bool:
    explicit = all(attribute.s in (b"", b"NOTSET") for attribute in node.attribute if attribute.name == "auto_pad")
    return node.op_type == "Conv" and node.input[0] == pad.output[0] and pad.output[0] not in node.input[1:] and explicit


def _zero_padding(graph: "onnx.GraphProto", pad: "onnx.NodeProto") -> list[int] | None:
    """Return the spatial padding of a Pad node in the order of a convolution's `pads`; None where it is anything but zeros in space."""
    from onnx import numpy_helper

    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in pad.input[1:3]}
    mode = next((attribute.s for attribute in pad.attribute if attribute.name == "mode"), b"constant")
    if mode != b"constant" or pad.input[1] not in held or len(pad.input) > 3:
        return None
    filled = held.get(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(1)
    amounts = held[pad.input[1]].reshape(2, -1)  # begins and ends, of every axis
    if filled is None or np.any(filled) or np.any(amounts[:, :2]) or np.any(amounts < 0):
        return None
    return [int(amount) for amount in amounts[:, 2:].ravel()]


def quantize_biases(graph: "onnx.GraphProto") -> None:
    """Write the biases of integer layers as 32-bit integers at the scale of the products, which is how integer kernels add them.

    That scale is not stored: the runtime multiplies the two it is made of, once, when it loads the file.
    """
    from onnx import helper, numpy_helper

    dequantized = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) > 2]:
        bias, sources = tensors.get(node.input[2]), [dequantized.get(name) for name in node.input[:2]]
        if bias is None or None in sources:
            continue
        scales = [source.input[1] for source in sources if source is not None]
        held = [numpy_helper.to_array(tensors[scale]) for scale in scales]
        place = list(graph.node).index(node)
        codes = np.round(numpy_helper.to_array(bias) / (held[0] * held[1]).astype(np.float64))
        if np.abs(codes).max() >= 2**31 - 1:
            continue
        name = f"{bias.name}_codes_{place}"  # layers that share a bias have grids of their own
        graph.initializer.append(numpy_helper.from_array(codes.astype(np.int32), name))
        graph.node.insert(place, helper.make_node("DequantizeLinear", [name, f"{name}_scale"], [f"{name}_dense"], axis=0))
        graph.node.insert(place, helper.make_node("Mul", scales, [f"{name}_scale"]))
        node.input[2] = f"{name}_dense"
    drop_unread(graph)


def fits_4_bits(codes: NDArray[Any]) -> bool:
    """Say whether signed 8-bit codes are multiples of 8 in [-64, 56], which is how 4 bits and fewer are written."""
    return codes.dtype == np.int8 and codes.size > 0 and not np.any(codes % _UNIT) and codes.min() >= -64 and codes.max() <= 56


def store_in_4_bits(graph: "onnx.GraphProto") -> None:
    """Store the codes of weights that fit as 4-bit integers, two to the byte, and compute from them the 8 bits that integer kernels read.

    The runtime does so once, when it loads the file, and then finds the same graph as without.
    """
    from onnx import TensorProto, helper, numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    narrow = [name for name in codes_of(graph) if fits_4_bits(numpy_helper.to_array(tensors[name]))]
    for name in narrow:
        codes = numpy_helper.to_array(tensors[name])
        pairs = np.pad(codes.ravel() // _UNIT, (0, codes.size % 2)).astype(np.uint8).reshape(-1, 2) & 15
        stored = (pairs[:, 0] | pairs[:, 1] << 4).tobytes()
        tensors[name].CopyFrom(helper.make_tensor(name, TensorProto.INT4, codes.shape, stored, raw=True))
        for node in graph.node:
            node.input[:] = [f"{name}_8" if each == name else each for each in node.input]
        graph.node.insert(0, helper.make_node("Cast", [f"{name}_units"], [f"{name}_8"], to=TensorProto.INT8))
        graph.node.insert(0, helper.make_node("Mul", [f"{name}_32", _UNIT_NAME], [f"{name}_units"]))
        graph.node.insert(0, helper.make_node("Cast", [name], [f"{name}_32"], to=TensorProto.INT32))
    if narrow:
        graph.initializer.append(numpy_helper.from_array(np.array(_UNIT, np.int32), _UNIT_NAME))


def shift_weights(graph: "onnx.GraphProto") -> None:
    """Write the codes of weights that meet 8-bit activations without a sign, from 0 to 255 around 128, where they might saturate.

    Processors without an 8-bit dot product add two products of an unsigned and a signed code in 16 bits, which overflow from weights
    of 64 on; of two unsigned ones they add in 32. What the network computes is the same.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    dequantized = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[0] in dequantized]
    read = {dequantized[node.input[1]].input[0] for node in products if node.input[1] in dequantized}
    for name in sorted(read & tensors.keys()):
        codes = numpy_helper.to_array(tensors[name])
        if codes.dtype != np.int8 or np.abs(codes.astype(np.int16)).max(initial=0) <= _EXACT_IN_16_BITS:
            continue
        tensors[name].CopyFrom(numpy_helper.from_array(_without_sign(codes), name))
        for place, node in enumerate(node for node in dequantized.values() if node.input[0] == name):
            signed = numpy_helper.to_array(tensors[node.input[2]])
            zero_point = numpy_helper.from_array(_without_sign(signed), f"{name}_zero_{place}")
            graph.initializer.append(zero_point)
            node.input[2] = zero_point.name
    drop_unread(graph)


def _without_sign(codes: NDArray[Any]) -> NDArray[np.uint8]:
    return (codes.astype(np.int16) + 128).astype(np.uint8)


def codes_of(graph: "onnx.GraphProto") -> list[str]:
    """Return the names of the tensors that are stored as whole-number codes of a grid, as they are or widened."""
    stored = {tensor.name: tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Cast", "Mul") and all(name in stored for name in node.input):
            stored[node.output[0]] = stored[node.input[0]]
    read = [node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"]
    return list(dict.fromkeys(stored[name] for name in read if name in stored))


def drop_unread(graph: "onnx.GraphProto") -> None:
    """Remove the stored tensors that no node reads."""
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def make_compact(model: "onnx.ModelProto") -> None:
    """Drop what only a debugger reads or what is so by default, and shorten inner names; inputs, outputs and weights keep theirs."""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    model.graph.doc_string = model.doc_string = ""
    kept = {value.name for part in (model.graph.input, model.graph.output, model.graph.initializer) for value in part} | {""}
    inner = {
        name: f"v{i}" for i, name in enumerate(dict.fromkeys(name for node in model.graph.node for name in node.output if name not in kept))
    }
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]
    versions = {entry.domain: entry.version for entry in model.opset_import}
    for node in model.graph.node:
        node.name = node.doc_string = ""
        del node.metadata_props[:]
        _drop_defaults(node, versions[node.domain])
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
    for value in [*model.graph.input, *model.graph.output]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = "batch"


def _drop_defaults(node: "onnx.NodeProto", version: int) -> None:
    """Drop attributes that say what their operation does without them."""
    import onnx

    if not onnx.defs.has(node.op_type, node.domain):
        return
    declared = onnx.defs.get_schema(node.op_type, version, node.domain).attributes
    told = [each for each in node.attribute if each.name not in declared or not _same(each, declared[each.name].default_value)]
    del node.attribute[:]
    node.attribute.extend(told)


def _same(attribute: "onnx.AttributeProto", default: "onnx.AttributeProto") -> bool:
    from onnx import helper

    return attribute.type == default.type and helper.get_attribute_value(attribute) == helper.get_attribute_value(default)


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
    write_dense(model.graph)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    grids = {name for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear") for name in node.input[1:]}
    codes = set(codes_of(model.graph))
    tensors |= _counted_from_zero(model.graph, {name: tensors[name] for name in codes & tensors.keys()}, tensors)
    held = [array for name, array in tensors.items() if array.ndim and name not in grids and (name in codes or array.dtype == np.float32)]
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*inferred.value_info, *inferred.output, *inferred.input]
    }
    shapes |= {name: list(array.shape) for name, array in tensors.items()}
    macs = sum(_macs(node, shapes) for node in model.graph.node)
    return Counts(sum(array.size for array in held), sum(int(np.count_nonzero(array)) for array in held), macs)


def _counted_from_zero(
    graph: "onnx.GraphProto", codes: dict[str, NDArray[Any]], tensors: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return codes less the code that stands for zero, where that is another than 0."""
    moved = {}
    for node in graph.node:
        zero = tensors.get(node.input[2]) if node.op_type == "DequantizeLinear" and len(node.input) > 2 else None
        if node.input and node.input[0] in codes and zero is not None and zero.ndim <= 1 and np.any(zero):
            held = codes[node.input[0]]
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            along = [-1 if place == axis % held.ndim else 1 for place in range(held.ndim)] if zero.size > 1 else []
            moved[node.input[0]] = held.astype(np.int32) - zero.astype(np.int32).reshape(along)
    return moved


def _macs(node: "onnx.NodeProto", shapes: dict[str, list[int]]) -> int:
    """Output entries times the length of the sum behind each."""
    if node.op_type in ("GRU", "LSTM", "RNN"):  # every step multiplies by both of its weights, in either order of steps and examples
        inner, recurrent = (shapes.get(name, [0]) for name in node.input[1:3])
        return int(np.prod(shapes.get(node.input[0], [0])[:2])) * int(np.prod(inner) + np.prod(recurrent))
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    output, weight = shapes.get(node.output[0], [0]), shapes.get(node.input[1], [0])
    if node.op_type == "Conv":
        return int(np.prod(output) * np.prod(weight[1:]))
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return int(np.prod(output) * (weight[-1] if transposed else weight[-2]))
