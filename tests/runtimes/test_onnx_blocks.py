import numpy as np
import onnx
import pytest
import torch
from torch import nn

from laconic.context import Context
from laconic.program import capture, clone, read
from laconic.quantize import WeightOnly
from laconic.runtimes import onnxruntime
from laconic.runtimes.onnx_blocks import blocks_in, blocks_of, write_dense

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
NOTHING = Context(None)


def grid(codes, scale, zero_point):
    """What codes stand for, entry by entry."""
    outputs, inputs = codes.shape
    dense = np.zeros((outputs, inputs))
    for o in range(outputs):
        for i in range(inputs):
            s, z = (np.asarray(values) for values in (scale, zero_point))
            place = () if s.ndim == 0 else (o,) if s.ndim == 1 else (o, i * s.shape[1] // inputs)
            dense[o, i] = (int(codes[o, i]) - int(z[place])) * float(s[place])
    return dense


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", [(), (3,), (3, 2), (3, 3)])
@pytest.mark.parametrize("inputs", [96, 192])
def test_blocks_stand_for_what_the_codes_stand_for(bits, signed, shape, inputs):
    generator = np.random.default_rng(0)
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    kind = np.int8 if signed else np.uint8
    codes = generator.integers(low, high, (3, inputs)).astype(kind)
    scale = generator.uniform(0.5, 1, shape).astype(np.float32)
    zero_point = np.zeros(shape, kind) if signed else generator.integers(low, high, shape).astype(kind)
    blocks = blocks_of(codes, scale, zero_point)
    np.testing.assert_allclose(blocks.dense(), grid(codes, scale, zero_point), rtol=1e-5)
    small = len(shape) == 2 and inputs // shape[1] % 32 > 0
    assert blocks.bits == {2: 4 if small else 2, 3: 4, 4: 4, 5: 8, 8: 8}[bits], "kernels of 2 bits work on 32 inputs at once"
    assert (blocks.zero_point is None) == signed, "the middle code is what the operations take by themselves"


def test_groups_too_small_for_kernels_of_2_bits_are_stored_in_4():
    codes = np.ones((2, 48), np.int8)
    blocks = blocks_of(codes, np.ones((2, 3), np.float32), np.zeros((2, 3), np.int8))
    assert (blocks.bits, blocks.size) == (4, 16)


def test_a_scale_for_a_channel_takes_the_blocks_that_cost_fewest_bytes():
    made = {inputs: blocks_of(np.full((1, inputs), 7, np.int8), np.ones(1, np.float32), np.zeros(1, np.int8)) for inputs in (40, 384, 512)}
    assert {inputs: blocks.size for inputs, blocks in made.items()} == {40: 64, 384: 128, 512: 256}
    assert made[384].codes.nbytes + made[384].scale.nbytes == 192 + 3 * 4


class Words(nn.Module):
    """An embedding, products of three dimensions with and without bias, one of two."""

    def __init__(self):
        super().__init__()
        self.words, self.one, self.two, self.three = (
            nn.Embedding(20, 96),
            nn.Linear(96, 48),
            nn.Linear(48, 40, bias=False),
            nn.Linear(40, 16),
        )

    def forward(self, ids):
        return self.three(self.two(self.one(self.words(ids)).relu()).mean(1))


IDS = torch.tensor([[1, 2, 3], [4, 5, 19]])


@pytest.fixture(scope="module")
def words():
    torch.manual_seed(0)
    return capture(Words().eval(), (IDS,))


CASES = [
    ("int4", True, "channel"),
    ("int4", False, "channel"),
    ("int4", True, "group"),
    ("int4", False, "group"),
    ("int8", True, "tensor"),
    ("int8", False, "group"),
    ("int3", True, "channel"),
    ("int2", False, "channel"),
    ("ternary", True, "channel"),
    ("binary", True, "channel"),
]


@pytest.mark.parametrize(("format", "symmetric", "granularity"), CASES)
def test_weights_alone_run_in_kernels_of_their_own_and_compute_what_the_program_computes(words, format, symmetric, granularity, tmp_path):
    program, settings = clone(words), {"granularity": granularity, "format": format, "symmetric": symmetric}
    settings |= {"group_size": 16, "exclude": ("three",)} if granularity == "group" else {}
    step = WeightOnly(**settings)
    step(program, NOTHING)
    assert step.forms <= onnxruntime.KEEPS
    file = onnxruntime.export(program, (IDS,), tmp_path / "file.onnx")
    assert file.kernels["MatMulNBits"] == (2 if granularity == "group" else 3)
    assert file.kernels["GatherBlockQuantized"] == 1
    assert not {"Gather", "DequantizeLinear"} & set(file.kernels)
    assert file.baked == ()
    assert file.difference < 0.02, "activations are rounded to 8 bits inside the kernel"
    held = {
        name.removesuffix("_codes").removesuffix("_product").removesuffix("_lookup"): b
        for name, b in blocks_in(onnx.load(file.path).graph).items()
    }
    for name, blocks in held.items():
        np.testing.assert_allclose(blocks.dense(), read(program, name).detach().numpy(), rtol=1e-4, atol=1e-7)
    assert len(held) == file.integer_tensors == (3 if granularity == "group" else 4)


def test_what_is_counted_in_blocks_are_the_weights(words, tmp_path):
    float_file = onnxruntime.export(clone(words), (IDS,), tmp_path / "float.onnx")
    program = clone(words)
    WeightOnly(format="int4", ranges="min-max")(program, NOTHING)
    file = onnxruntime.export(program, (IDS,), tmp_path / "file.onnx")
    counted, wanted = onnxruntime.count(file.path), onnxruntime.count(float_file.path)
    assert (counted.parameters, counted.macs) == (wanted.parameters, wanted.macs)
    zeros = sum(int((read(program, name) == 0).sum()) for name in ("words.weight", "one.weight", "two.weight", "three.weight"))
    assert counted.nonzero_parameters == wanted.nonzero_parameters - zeros


def test_the_layers_of_a_profile_are_named_as_those_in_float(words, tmp_path):
    program = clone(words)
    WeightOnly(format="int4", ranges="min-max")(program, NOTHING)
    file = onnxruntime.export(program, (IDS,), tmp_path / "file.onnx")
    assert set(onnxruntime.load(file.path).layer_seconds(IDS.numpy(), calls=4)) == {"one", "two", "three", ""}


def test_a_file_in_4_bits_takes_an_eighth(tmp_path):
    example = (torch.randn(2, 512),)
    program = capture(nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512)).eval(), example)
    WeightOnly(format="int4", ranges="min-max")(program, NOTHING)
    file = onnxruntime.export(program, example, tmp_path / "file.onnx")
    assert file.path.stat().st_size < 1.06 * 2 * 512 * 1024 / 2 + 8000


def test_operations_on_blocks_can_be_written_as_standard_ones(words, tmp_path):
    program = clone(words)
    WeightOnly(format="int4", symmetric=False, ranges="min-max")(program, NOTHING)
    file = onnxruntime.export(program, (IDS,), tmp_path / "file.onnx")
    model = onnx.load(file.path)
    write_dense(model.graph)
    del model.opset_import[1:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "dense.onnx")
    found = onnxruntime.load(tmp_path / "dense.onnx")(IDS.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(found, program(IDS).numpy(), rtol=1e-4, atol=1e-5)


def test_groups_that_are_no_blocks_are_written_dense_and_said_before_any_work(words, tmp_path):
    step = WeightOnly(format="int4", granularity="group", group_size=24, ranges="min-max", exclude=("two", "three"))
    assert step.forms == {"grouped int4 weights in groups of 24"}
    program = clone(words)
    step(program, NOTHING)
    file = onnxruntime.export(program, (IDS,), tmp_path / "file.onnx")
    assert [note.partition(": ")[2] for note in file.baked] == ["grouped int4 weights in groups of 24"] * 2
    assert file.integer_tensors == 0


def test_a_tied_table_is_looked_up_and_multiplied_by(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(20, 32), nn.Linear(32, 20, bias=False)
            self.out.weight = self.words.weight

        def forward(self, ids):
            return self.out(self.words(ids).tanh())

    torch.manual_seed(0)
    program = capture(Tied().eval(), (IDS,))
    WeightOnly(format="int8", ranges="min-max")(program, NOTHING)
    file = onnxruntime.export(program, (IDS,), tmp_path / "file.onnx")
    assert file.kernels["MatMulNBits"] == file.kernels["GatherBlockQuantized"] == 1
    assert file.difference < 0.02
