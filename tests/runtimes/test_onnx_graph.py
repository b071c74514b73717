"""Rewrites of ONNX graphs, on graphs made by hand: PyTorch's exporter fuses some padding by itself."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from laconic.runtimes.onnx_graph import fuse_padding

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 3, 6, 5)).astype(np.float32)
WEIGHT = RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32)
CONV = helper.make_node("Conv", ["padded", "weight"], ["y"], pads=[1, 0, 2, 1], strides=[2, 1])
LOPSIDED = [0, 0, 1, 0, 0, 0, 2, 3]  # begins, then ends, of batch, channels, height, width


def model(amounts=LOPSIDED, nodes=(CONV,), outputs=("y",), value=None, weight=WEIGHT, **attributes):
    """A Pad node and what reads it; the amounts and the value are stored tensors."""
    stored = {"amounts": np.array(amounts, np.int64), "weight": weight}
    if value is not None:
        stored["value"] = np.array(value, np.float32)
    inputs = ["x", *(name for name in ("amounts", "value") if name in stored)]
    graph = helper.make_graph(
        [helper.make_node("Pad", inputs, ["padded"], **attributes), *nodes],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(proto):
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})


def fused(proto):
    """Fuse, check that the outputs are as before and say whether the padding went."""
    expected = run(proto)
    fuse_padding(proto.graph)
    for ours, theirs in zip(run(proto), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    return not [node for node in proto.graph.node if node.op_type == "Pad"]


def conv(output, **attributes):
    return helper.make_node("Conv", ["padded", "weight"], [output], **attributes)


BOTH = model(nodes=(CONV, conv("z", dilations=[2, 1])), outputs=("y", "z"))
RELU = helper.make_node("Relu", ["padded"], ["relu"])


@pytest.mark.parametrize(
    "proto",
    [
        model(),
        model(value=0.0),
        model(mode="constant"),
        model(nodes=(conv("y"),)),
        model(nodes=(CONV, conv("z", dilations=[2, 1])), outputs=("y", "z")),
    ],
    ids=["added to its own", "explicit zero", "explicit mode", "alone", "two convolutions"],
)
def test_zeros_around_the_picture_become_padding_of_the_convolution(proto):
    assert fused(proto)
    assert {tensor.name for tensor in proto.graph.initializer} == {"weight"}


@pytest.mark.parametrize(
    "proto",
    [
        model(value=1.5),
        model(mode="reflect"),
        model(mode="edge"),
        model(mode="wrap"),
        model([0, 0, -1, 0, 0, 0, 2, 3]),
        model([0, 1, 1, 0, 0, 0, 2, 3], weight=RANDOM.normal(size=(4, 4, 3, 3)).astype(np.float32)),
        model([1, 0, 1, 0, 0, 0, 2, 3]),
        model(nodes=(CONV, RELU), outputs=("y", "relu")),
        model(outputs=("y", "padded")),
        model(nodes=(), outputs=("padded",)),
    ],
    ids=["value", "reflect", "edge", "wrap", "crop", "channels", "batch", "read elsewhere", "also an output", "the output"],
)
def test_other_padding_is_left_alone(proto):
    assert not fused(proto)


def test_a_convolution_that_pads_by_rule_is_left_alone_or_stays_the_same():
    fused(model(nodes=(conv("y", auto_pad="SAME_UPPER", strides=[2, 2]),)))
