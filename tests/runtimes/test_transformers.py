"""Every linear layer of a quantized transformer runs as an integer kernel, by the runtime's own profile."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.program import capture, clone, weights
from laconic.quantize import Static, WeightOnly
from laconic.quantize.noise import outputs, signal_to_noise
from laconic.runtimes import onnxruntime

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
_PRODUCTS = ("MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "MatMulInteger", "DynamicQuantizeMatMul")


class Block(nn.Module):
    """Attention and two dense layers, each behind a layer norm and added to what it reads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.before, self.between = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.narrow(nn.functional.gelu(self.wide(self.between(x))))


class VisionTransformer(nn.Module):
    """Patches of 4 x 4, a class token, positions, two blocks; ten classes."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, width, 4, stride=4), nn.LayerNorm(width), nn.Linear(width, 10)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 17, width) * 0.2)
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))

    def forward(self, pictures: Tensor) -> Tensor:
        patches = self.patches(pictures).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(patches.shape[0], -1, -1), patches], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return capture(VisionTransformer().eval(), (torch.randn(2, 3, 16, 16),))


@pytest.fixture(scope="module")
def context():
    part = Split(np.random.default_rng(0).normal(size=(32, 3, 16, 16)).astype(np.float32), np.zeros(32, np.int64))
    return Context(Splits(part, part, part, part))


def kernels(program, context, folder):
    """Return how many products of the exported file run on integers, convolutions too, and how many in float."""
    found = onnxruntime.export(program, context.example(), folder / "vit.onnx").kernels
    integer = sum(count for name, count in found.items() if name in _PRODUCTS)
    floats = sum(count for name, count in found.items() if name in ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv", "FusedConv"))
    return integer, found.get("QLinearConv", 0), floats


ATTENTION = 2 * 2  # products of activations by activations, in float: scores, and what they weigh, in each block


def test_every_linear_layer_of_a_vision_transformer_runs_as_an_integer_kernel(vit, context, tmp_path):
    program = Static()(clone(vit), context)
    layers = [weight for weight in weights(program) if weight.kind == "linear"]
    assert kernels(program, context, tmp_path) == (len(layers), 1, ATTENTION) == (9, 1, ATTENTION)


def test_a_smoothed_vision_transformer_too(vit, context, tmp_path):
    assert kernels(Static(smoothing=0.5)(clone(vit), context), context, tmp_path) == (9, 1, ATTENTION)


def test_a_layer_that_falls_back_to_float_is_seen_in_the_profile(vit, context, tmp_path):
    program = Static(exclude=("blocks.1.wide",))(clone(vit), context)
    assert kernels(program, context, tmp_path) == (8, 1, ATTENTION + 1)


def test_layers_that_read_float_for_the_noise_keep_integer_weights(vit, context, tmp_path):
    settings, inputs = {"activation_bits": 4, "bias_correction": False, "exclude": ("patches",)}, list(context.calibration())
    before = signal_to_noise(outputs(vit, inputs), outputs(Static(**settings)(clone(vit), context), inputs))
    program = Static(**settings, signal_to_noise=before + 6)(clone(vit), context)
    file = onnxruntime.export(program, context.example(), tmp_path / "vit.onnx")
    assert file.kernels["MatMulNBits"] > 0
    assert file.kernels["MatMulNBits"] + sum(file.kernels.get(name, 0) for name in _PRODUCTS) == 9
    assert file.baked == ()


def test_static_and_weight_only_quantization_share_a_network(vit, context, tmp_path):
    program = Static(exclude=("blocks.1.*", "head"))(clone(vit), context)
    WeightOnly(format="int4", include=("blocks.1.*",), ranges="min-max")(program, context)
    file = onnxruntime.export(program, context.example(), tmp_path / "vit.onnx")
    assert (file.kernels["MatMulNBits"], sum(file.kernels.get(name, 0) for name in _PRODUCTS)) == (4, 4)
