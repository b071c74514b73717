"""Weights of 2 to 8 bits under float activations in an ONNX graph: ONNX Runtime's MatMulNBits and GatherBlockQuantized, and back.

Both hold codes of 2, 4 or 8 bits packed into bytes, with a scale and a zero point per block of consecutive inputs of an output: of a
power of two of at least 16. A scale for a whole channel, or for the tensor, is written once for each block.

MatMulNBits computes at `accuracy_level` 4: it rounds activations to 8 bits, each block of a row on a grid of its own, while it multiplies.
Measured on one row of 384 (and 64 rows) by 384 x 1536, against float32, one thread, AVX-512 VNNI: 4 bits 3.4 (1.4) times as fast,
8 bits 2.7 (1.4), 2 bits 3.4 (1.1); in float (level 0) 2.4 (1.0), 0.2 (0.5) and 0.1 (0.4).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

DOMAIN = "com.microsoft"
LEAST_BLOCK = 16
_WIDTHS = {2: (32, 64, 128), 4: (16, 32, 64, 128, 256), 8: (16, 32, 64, 128, 256)}  # bits: block sizes that have fast kernels
_READ = {"MatMulNBits": 1, "GatherBlockQuantized": 0}  # operation: position of its codes


@dataclass(frozen=True)
class Blocks:
    """A matrix of `(out, in)` codes as both operations hold it."""

    bits: int
    size: int  # of a block
    inputs: int
    codes: NDArray[np.uint8]  # (out, blocks, bytes of a block), the last block filled up
    scale: NDArray[np.float32]  # (out, blocks)
    zero_point: NDArray[np.uint8] | None  # (out, bytes); None: the middle code

    def dense(self) -> NDArray[np.float32]:
        """Return what the codes stand for, `(out, in)`."""
        outputs, blocks = self.scale.shape
        shifts = np.arange(8 // self.bits) * self.bits
        codes, zero = ((held.reshape(outputs, -1, 1) >> shifts & (1 << self.bits) - 1).reshape(outputs, -1) for held in self._held())
        steps = codes.astype(np.float32).reshape(outputs, blocks, -1) - zero[:, :blocks, None].astype(np.float32)
        return np.asarray((steps * self.scale[:, :, None]).reshape(outputs, -1)[:, : self.inputs], np.float32)

    def _held(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        middle = _packed(np.full(self.scale.shape, 1 << (self.bits - 1)), self.bits)
        return self.codes, middle if self.zero_point is None else self.zero_point


def blocks_of(codes: NDArray[Any], scale: NDArray[np.float32], zero_point: NDArray[Any]) -> Blocks:
    """Pack `(out, in)` codes of 8 bits, of which they may use a part, into as few bits and bytes as hold them.

    Args:
        codes: int8 or uint8.
        scale: one number, `(out,)`, or `(out, groups)`, each of as many consecutive inputs, a multiple of 16.
        zero_point: the code of 0.0; same type as `codes`, same shape as `scale`.
    """
    outputs, inputs = codes.shape
    shape = (outputs, scale.shape[1] if scale.ndim == 2 else 1)
    scale, zero_point = (np.broadcast_to(array.reshape(-1, shape[1]), shape) for array in (scale, zero_point))
    bits = _width(codes, zero_point, inputs // shape[1] if shape[1] > 1 else None)
    size = _size(bits, inputs, inputs // shape[1] if shape[1] > 1 else None)
    count = -(-inputs // size)
    middle = 1 << (bits - 1)
    lift = middle if codes.dtype == np.int8 else 0
    unsigned, zero = codes.astype(np.int32) + lift, zero_point.astype(np.int32) + lift
    filled = np.pad(unsigned, ((0, 0), (0, count * size - inputs)))
    scale, zero = (np.repeat(array, count // shape[1], axis=1) for array in (scale, zero))
    held = None if (zero == middle).all() else _packed(zero, bits)
    return Blocks(bits, size, inputs, _packed(filled, bits).reshape(outputs, count, -1), scale.astype(np.float32), held)


def _width(codes: NDArray[Any], zero_point: NDArray[Any], group: int | None) -> int:
    """Return the fewest bits that hold all codes and zero points, and for which there is a block size that divides the group."""
    low, high = (int(limit(np.concatenate([codes.ravel(), zero_point.ravel()]))) for limit in (np.min, np.max))
    signed = codes.dtype == np.int8
    fits = [b for b in _WIDTHS if (-(1 << b - 1) if signed else 0) <= low and high < (1 << b - signed)]
    return next(bits for bits in fits if group is None or group % _WIDTHS[bits][0] == 0)


def _size(bits: int, inputs: int, group: int | None) -> int:
    """Return the block size that costs the fewest bytes: it divides the group; where there is one group only, the last is filled up."""
    possible = [size for size in _WIDTHS[bits] if group is None or group % size == 0]
    return min(possible, key=lambda size: (-(-inputs // size) * (size * bits // 8 + 4), -size))


def _packed(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Pack rows of codes into bytes, the first in the lowest bits; rows are filled up with zeros."""
    share = 8 // bits
    rows = np.pad(codes, ((0, 0), (0, -codes.shape[1] % share))).astype(np.uint8).reshape(len(codes), -1, share)
    shifted: NDArray[np.uint8] = rows << (np.arange(share, dtype=np.uint8) * np.uint8(bits))
    return np.bitwise_or.reduce(shifted, axis=2)


def write_in_blocks(model: "onnx.ModelProto") -> None:
    """Write linear layers and embeddings whose weights are codes, and whose inputs are not, as operations on blocks."""
    from onnx import helper, numpy_helper

    graph = model.graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    sources = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for dense, source in sources.items():
        readers = list(_readers(graph, dense))
        if not readers or any(reader is None or reader.data in sources for reader in readers):
            continue
        blocks = blocks_of(*(tensors[name] for name in source.input))
        for reader in readers:
            assert reader is not None
            _replace(graph, reader, source.input[0], blocks)
    _drop_unread(graph)
    if blocks_in(graph) and DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


@dataclass(frozen=True)
class _Reader:
    """What reads a dequantized weight: a product or a lookup."""

    node: "onnx.NodeProto"
    data: str  # the other operand: activations, or indices
    bias: str = ""
    added: "onnx.NodeProto | None" = None  # the sum that adds the bias

    @property
    def output(self) -> str:
        return str((self.added or self.node).output[0])


def _readers(graph: "onnx.GraphProto", dense: str) -> Iterator[_Reader | None]:
    """Yield what reads a dequantized weight; None for what is no operation on blocks."""
    for node in _users(graph, dense):
        plain = {attribute.name: attribute.i or attribute.f for attribute in node.attribute}
        if node.op_type == "Transpose":
            for product in _users(graph, node.output[0]):
                is_right = product.op_type == "MatMul" and product.input[1] == node.output[0]
                yield _with_bias(graph, product) if is_right else None
        elif node.op_type == "Gemm" and plain == plain | {"transB": 1} and not plain.get("transA") and node.input[1] == dense:
            yield _Reader(node, node.input[0], node.input[2] if len(node.input) > 2 else "")
        elif node.op_type == "Gather" and not plain.get("axis") and node.input[0] == dense:
            yield _Reader(node, node.input[1])
        else:
            yield None


def _with_bias(graph: "onnx.GraphProto", product: "onnx.NodeProto") -> _Reader:
    """Take the bias that is added behind a product with it, where nothing else reads the product."""
    vectors = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 1}
    users = _users(graph, product.output[0])
    bias = [name for node in users for name in node.input if node.op_type == "Add" and name in vectors]
    if len(users) == len(bias) == 1 and product.output[0] not in {value.name for value in graph.output}:
        return _Reader(product, product.input[0], bias[0], users[0])
    return _Reader(product, product.input[0])


def _replace(graph: "onnx.GraphProto", reader: _Reader, codes: str, blocks: Blocks) -> None:
    """Put an operation on blocks in the place of a reader; the tensors are stored once for all readers of a kind."""
    from onnx import helper

    is_lookup = reader.node.op_type == "Gather"
    arrays, prefix = _arrays(blocks, is_lookup), f"{codes.removesuffix('_codes')}_{'lookup' if is_lookup else 'product'}"
    held = [_store(graph, f"{prefix}_{name}", array) for name, array in arrays.items()]
    attributes = {"bits": blocks.bits, "block_size": blocks.size}
    if is_lookup:
        kind, inputs = "GatherBlockQuantized", [held[0], reader.data, *held[1:]]
        attributes |= {"gather_axis": 0, "quantize_axis": 1}
    else:
        kind, inputs = "MatMulNBits", [reader.data, *held, *[""] * (3 - len(held)), "", reader.bias]
        attributes |= {"K": blocks.inputs, "N": len(blocks.scale), "accuracy_level": 4}
    made = helper.make_node(kind, inputs, [reader.output], domain=DOMAIN, **attributes)
    graph.node.insert(list(graph.node).index(reader.node), made)
    for node in (reader.node, reader.added):
        if node is not None:
            graph.node.remove(node)


def _arrays(blocks: Blocks, is_lookup: bool) -> dict[str, NDArray[Any]]:
    """Return the tensors as a lookup (by row, without what fills up the last block) or a product (by block) takes them."""
    rows = blocks.codes.reshape(len(blocks.codes), -1)[:, : -(-blocks.inputs * blocks.bits // 8)]
    found = {"codes": rows if is_lookup else blocks.codes, "scale": blocks.scale}
    return found if blocks.zero_point is None else found | {"zero_point": blocks.zero_point}


def _store(graph: "onnx.GraphProto", name: str, array: NDArray[Any]) -> str:
    from onnx import numpy_helper

    if name not in {tensor.name for tensor in graph.initializer}:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return name


def blocks_in(graph: "onnx.GraphProto") -> dict[str, Blocks]:
    """Return the weights that a graph holds in blocks, by the name of the tensor of their codes."""
    from onnx import numpy_helper

    tensors, found = {tensor.name: tensor for tensor in graph.initializer}, dict[str, Blocks]()
    for node in [node for node in graph.node if node.op_type in _READ]:
        place, attributes = _READ[node.op_type], {attribute.name: attribute.i for attribute in node.attribute}
        names = [node.input[0], *node.input[2:]] if place == 0 else list(node.input[1:4])
        codes, scale, *zero_point = (numpy_helper.to_array(tensors[name]) for name in names if name)
        bits, size = attributes["bits"], attributes["block_size"]
        inputs = attributes.get("K", codes.shape[-1] * 8 // bits)
        rows = codes.reshape(len(codes), -1)
        filled = np.pad(rows, ((0, 0), (0, scale.shape[1] * size * bits // 8 - rows.shape[1])))
        held = zero_point[0] if zero_point else None
        found[node.input[place]] = Blocks(bits, size, inputs, filled.reshape(*scale.shape, -1), scale, held)
    return found


def write_dense(graph: "onnx.GraphProto") -> None:
    """Write operations on blocks as standard ones on dense float tensors of the codes' names: what other tools can read and count."""
    from onnx import helper, numpy_helper

    for name, blocks in blocks_in(graph).items():
        for node in [node for node in graph.node if node.op_type in _READ and name in node.input]:
            is_lookup = _READ[node.op_type] == 0
            bias = node.input[5] if len(node.input) > 5 else ""
            product = f"{node.output[0]}_product" if bias else node.output[0]
            inputs = [name, node.input[1]] if is_lookup else [node.input[0], name]
            made = [helper.make_node("Gather" if is_lookup else "MatMul", inputs, [product])]
            made += [helper.make_node("Add", [product, bias], [node.output[0]])] if bias else []
            place = list(graph.node).index(node)
            graph.node.remove(node)
            for each in reversed(made):
                graph.node.insert(place, each)
        dense = blocks.dense() if is_lookup else blocks.dense().T
        next(tensor for tensor in graph.initializer if tensor.name == name).CopyFrom(numpy_helper.from_array(dense, name))
    _drop_unread(graph)


def _users(graph: "onnx.GraphProto", value: str) -> list["onnx.NodeProto"]:
    return [node for node in graph.node if value in node.input]


def _drop_unread(graph: "onnx.GraphProto") -> None:
    """Take out what computes only what nothing reads any more."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    while unread := [node for node in graph.node if not used.intersection(node.output)]:
        for node in unread:
            graph.node.remove(node)
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
