"""Every quantized convolution and linear layer is executed with integers, by the runtime's own account; one left out is seen."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from laconic import zoo
from laconic.context import Context
from laconic.data import Split, Splits
from laconic.program import capture, weights
from laconic.quantize import Static
from laconic.runtimes import NAMES, runtime

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
INTEGER_KERNELS = ("QLinear", "QGemm", "MatMulInteger", "Convolution u8", "FullyConnected u8", "MatMul u8")
RUNTIMES = [
    pytest.param(name, marks=[] if importlib.util.find_spec(name) else pytest.mark.skip(reason=f"needs {name}"), id=name) for name in NAMES
]


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, two blocks, and a head on the class token."""

    def __init__(self, width=32):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 17, width))
        layers = [nn.TransformerEncoderLayer(width, 4, 2 * width, activation="gelu", batch_first=True, norm_first=True) for _ in range(2)]
        self.blocks = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x):
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])


NETWORKS = {
    "resnet20": (lambda: zoo.load("zoo:resnet20", None), 32),
    "mobilenet_v2": (lambda: zoo.load("zoo:mobilenet_v2", None), 64),
    "vision transformer": (VisionTransformer, 32),
}


def quantized(name, exclude=()):
    """Return a quantized network of random weights, and its example."""
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    draw = np.random.default_rng(0)
    part = Split(draw.normal(size=(8, 3, size, size)).astype(np.float32), np.arange(8) % 5)
    context = Context(Splits(None, part, part, part))
    program = capture(make().eval(), context.example())
    return Static(ranges="min-max", bias_correction=False, exclude=exclude)(program, context), context.example()


def executed_with_integers(name, runtime_name, path, exclude=()):
    """Return the layers of the network and those of them that the file executes with integers."""
    program, example = quantized(name, exclude)
    runtime(runtime_name).export(program, example, path)
    kernels = runtime(runtime_name).load(path).layer_kernels(example[0].numpy())
    layers = {weight.name.removesuffix(".weight") for weight in weights(program, kinds=("conv2d", "linear"))}
    return layers, {layer for layer, kernel in kernels.items() if kernel.startswith(INTEGER_KERNELS)}


@pytest.mark.parametrize("runtime_name", RUNTIMES)
@pytest.mark.parametrize(("name", "count"), [("resnet20", 22), ("mobilenet_v2", 53), ("vision transformer", 10)])
def test_every_convolution_and_linear_layer_is_executed_with_integers(name, count, runtime_name, tmp_path):
    layers, integer = executed_with_integers(name, runtime_name, tmp_path / "file.onnx")
    assert len(layers) == count
    assert integer == layers


@pytest.mark.parametrize("runtime_name", RUNTIMES)
def test_layers_that_stay_in_float_are_seen(runtime_name, tmp_path):
    """Two in a row: ONNX Runtime quantizes float weights by itself where it finds integers on both sides of a layer."""
    left_out = {"resnet20": ("layer2.0.conv1", "layer2.0.conv2"), "vision transformer": ("blocks.1.linear1", "blocks.1.linear2")}
    name = "vision transformer" if runtime_name == "openvino" else "resnet20"
    layers, integer = executed_with_integers(name, runtime_name, tmp_path / "file.onnx", exclude=left_out[name])
    assert layers - integer == set(left_out[name])
