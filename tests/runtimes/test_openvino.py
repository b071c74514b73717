"""OpenVINO: files that hold integers, executed with integers, which compute what the program computes."""

import os
import re
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from laconic import fresh
from laconic.errors import LaconicError
from laconic.measure import macs, parameters
from laconic.numeric.rounding import consecutive_groups
from laconic.program import Uniform, capture, fold_batch_norm, represent, weights
from networks import build, captured, quantize
from runtimes.test_onnx_profile import LAYERS, Residual

pytest.importorskip("openvino")

from laconic.runtimes import onnxruntime, openvino

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
QUANTIZED = ("residual", "concat", "depthwise", "transformer")
WIDE = 7 if onnxruntime.saturates() else 8  # bits of weights whose sums this processor computes without overflow


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export a network once for all tests: `exported(name, (weight bits, activation bits) or None)`."""
    folder = tmp_path_factory.mktemp("openvino")

    @cache
    def export(name, bits=None):
        program, example = captured(name)
        if bits:
            quantize(program, example, bits=bits)
        else:
            fold_batch_norm(program)
        return program, example, openvino.export(program, example, folder / f"{name}-{bits}.onnx")

    return export


def first(value):
    return value[0] if isinstance(value, tuple) else value


def layers(program):
    return {weight.name.removesuffix(".weight") for weight in weights(program)}


def alone(form, rows=12, columns=32, groups=None):
    """Return a network whose middle layer's weight is kept in `form(scale)` under float activations, and its example."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, columns), nn.GELU(), nn.Linear(columns, rows), nn.GELU(), nn.Linear(rows, 5))
    example = (torch.randn(2, 3, 8),)
    program = capture(module.eval(), example)
    represent(program, "2.weight", form)
    return program, example


def grid(bits, signed=True, groups=None, rows=12, columns=32):
    shape = (rows, groups) if groups else (rows,)
    generator = torch.Generator().manual_seed(bits)
    scale = (0.4 / 2**bits) * (1 + torch.rand(shape, generator=generator))
    zero_point = torch.zeros(shape) if signed else torch.randint(2 ** (bits - 1) - 1, 2 ** (bits - 1) + 2, shape, generator=generator)
    return Uniform(scale, zero_point.float(), bits, signed, 0, consecutive_groups((columns,), groups) if groups else None)


# float ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["residual", "transformer", "tied"])
def test_a_float_file_computes_what_torch_computes_for_any_batch(name, exported):
    _, example, file = exported(name)
    module, _ = build(name)
    module.eval()
    session = openvino.load(file.path)
    for size in (2, 1, 5):
        inputs = [tensor[np.arange(size) % 2].flip(-1) for tensor in example]
        with torch.no_grad():
            expected = first(module(*inputs)).numpy()
        np.testing.assert_allclose(session(*[tensor.numpy() for tensor in inputs]), expected, rtol=1e-4, atol=1e-5)
    assert file.difference < 1e-5
    assert (file.integer_tensors, file.integer_kernels, file.baked) == (0, 0, ())


def test_float_is_never_executed_in_16_bits(exported):
    session = openvino.load(exported("residual")[2].path)
    assert str(session.compiled.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"
    assert {kernel.split()[1] for kernel in session.kernels()} <= {"f32", "i32", "i64"}


def test_threads_are_those_that_were_asked_for(exported):
    for threads in range(1, min(2, len(os.sched_getaffinity(0))) + 1):  # it takes no more than there are processors
        compiled = openvino.load(exported("residual")[2].path, threads).compiled
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("NUM_STREAMS") == 1


def test_inputs_of_the_first_shape_and_all_others_are_executed_by_a_network_each_which_compute_the_same(exported):
    _, example, file = exported("residual", (8, 8))
    session, inputs = openvino.load(file.path), example[0].numpy()
    outputs = {size: session(inputs[np.arange(size) % 2]) for size in (1, 2, 5, 1)}
    for size, rows in outputs.items():
        np.testing.assert_allclose(rows, outputs[2][np.arange(size) % 2], atol=0.02 * np.abs(rows).max())
    compiled = [openvino._compiled(session._network, 1, shapes) for shapes in (((1, *inputs.shape[1:]),), None)]
    assert [network.inputs[0].partial_shape.is_static for network in compiled] == [True, False]


def test_outputs_of_one_call_stay_as_they_are_in_the_next(exported):
    _, example, file = exported("residual")
    session, inputs = openvino.load(file.path), example[0].numpy()
    one = session(inputs)
    kept = one.copy()
    session(-inputs)
    np.testing.assert_array_equal(one, kept)


# integers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [(WIDE, 8), (4, 4)], ids=str)
@pytest.mark.parametrize("name", QUANTIZED)
def test_every_quantized_layer_is_executed_with_integers_and_computes_what_the_program_computes(name, bits, exported):
    program, example, file = exported(name, bits)
    assert file.baked == ()
    assert file.integer_tensors == file.integer_kernels == len(layers(program))
    executed = openvino.load(file.path).layer_kernels(example[0].numpy())
    assert executed.keys() == layers(program)
    assert {kernel.split()[1] for kernel in executed.values()} == {"u8"}
    with torch.no_grad():
        expected = first(program(*example)).numpy()
    outputs = openvino.load(file.path)(example[0].numpy())
    assert np.sqrt(np.mean((outputs - expected) ** 2)) < 0.1 * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("bits", [(WIDE, 8), (4, 4)], ids=str)
def test_the_same_file_computes_the_same_in_the_other_runtime(bits, exported):
    _, example, file = exported("depthwise", bits)
    ours, other = (runtime.load(file.path)(example[0].numpy()) for runtime in (openvino, onnxruntime))
    np.testing.assert_allclose(ours, other, atol=0.05 * np.abs(other).max())


@pytest.mark.skipif(WIDE == 8, reason="this processor has an 8-bit dot product")
def test_weights_whose_sums_overflow_here_are_refused_with_what_to_do(tmp_path):
    program, example = captured("transformer")
    with pytest.raises(LaconicError, match=r"quantize weights to 7 bits \(weight_bits: 7\), or take onnxruntime"):
        openvino.export(quantize(program, example), example, tmp_path / "file.onnx")


def test_bounds_of_narrow_activations_are_part_of_the_layer_before(exported):
    wide, narrow = (exported("residual", bits)[2] for bits in ((8, 8), (4, 4)))
    made = {name: node for node in onnx.load(narrow.path).graph.node for name in node.output}
    clipped = [made.get(node.input[0]) for node in made.values() if node.op_type == "Clip"]
    codes = [node for node in clipped if node is not None and node.op_type == "QuantizeLinear"]
    assert not {"Conv", "Gemm", "Add"} & {made[node.input[0]].op_type for node in codes if node.input[0] in made}
    assert len(clipped) > len(codes)
    assert narrow.kernels == {**wide.kernels, "Eltwise u8": len(codes)}


class ClassToken(nn.Module):
    """Two convolutions with large biases, and a token before their positions that is repeated for every example."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.token, self.head = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 5)
        for convolution in (self.stem[0], self.stem[2]):
            nn.init.uniform_(convolution.bias, 1.0, 2.0)

    def forward(self, x):
        positions = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(torch.cat([self.token.expand(x.shape[0], -1, -1), positions], 1).mean(1))


def test_biases_are_added_where_a_token_is_repeated_for_every_example(tmp_path):
    torch.manual_seed(0)
    example = (torch.randn(3, 3, 9, 9),)
    program = quantize(capture(ClassToken().eval(), example), example, bits=(WIDE, 8))
    file = openvino.export(program, example, tmp_path / "file.onnx")
    assert file.difference < 0.02
    for size in (1, 2, 7):
        inputs = example[0].numpy()[np.arange(size) % 3]
        np.testing.assert_allclose(openvino.load(file.path)(inputs), onnxruntime.load(file.path)(inputs), atol=0.05)


@pytest.mark.parametrize(("bits", "kind"), [((4, 4), TensorProto.INT4), ((8, 8), TensorProto.INT8)], ids=str)
def test_weights_are_stored_in_their_width(bits, kind, exported):
    program, example, file = exported("residual", bits)
    tensors = {tensor.name: tensor for tensor in onnx.load(file.path).graph.initializer}
    assert {tensors[f"{weight.name}_codes"].data_type for weight in weights(program)} == {kind}
    counted = openvino.count(file.path)
    assert counted.macs == macs(program, example)
    assert counted.parameters == parameters(program, exclude=("_edges",))


# weights alone -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "signed", "groups", "kind"),
    [(8, True, None, "i8"), (8, False, 2, "u8"), (4, True, None, "u4"), (4, True, 2, "u4"), (4, False, 2, "u4"), (3, True, 2, "u4")],
)
def test_integer_weights_under_float_activations_stay_integers_in_the_file_and_when_executed(bits, signed, groups, kind, tmp_path):
    program, example = alone(grid(bits, signed, groups))
    file = openvino.export(program, example, tmp_path / "file.onnx")
    assert (file.integer_tensors, file.integer_kernels, file.baked) == (1, 1, ())
    assert file.difference < 0.01
    assert openvino.load(file.path).layer_kernels()["2"] == f"FullyConnected {kind}"
    assert file.kernels["FullyConnected f32"] == 2
    [stored] = [tensor for tensor in onnx.load(file.path).graph.initializer if tensor.name == "2.weight_codes"]
    assert len(stored.raw_data) == 12 * 32 * (4 if bits <= 4 else 8) // 8
    assert openvino.count(file.path).parameters == parameters(program)


def test_a_file_of_4_bit_weights_in_groups_is_little_larger_than_what_it_holds(tmp_path):
    program, example = alone(grid(4, False, 8, 256, 512), 256, 512)
    path = openvino.export(program, example, tmp_path / "file.onnx").path
    held = 256 * 512 // 2 + 256 * 8 * (4 + 0.5)  # codes; scales and zero points
    rest = 4 * (8 * 512 + 512 + 256 + 5 * 256 + 5)
    assert held + rest < path.stat().st_size < held + rest + 3000


def test_a_table_of_quantized_embeddings_is_looked_up_in_integers(tmp_path):
    torch.manual_seed(0)
    example = (torch.tensor([[1, 2, 3], [4, 5, 9]]),)
    program = capture(nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 5)), example)
    represent(program, "0.weight", Uniform(torch.full((11,), 0.02), bits=8, axis=0))
    file = openvino.export(program, example, tmp_path / "file.onnx")
    assert file.baked == ()
    assert file.integer_tensors == file.integer_kernels == 1
    assert file.difference < 1e-6


def test_convolutions_under_float_activations_are_written_dense_and_said(tmp_path):
    program, example = captured("residual")
    represent(program, "stem.0.weight", Uniform(torch.tensor(0.01), bits=8))
    file = openvino.export(program, example, tmp_path / "file.onnx")
    assert file.baked == ("stem.0.weight: int8 weights",)
    assert file.integer_tensors == 0


def test_groups_of_unequal_size_are_written_dense_and_said(tmp_path):
    form = grid(4, True, 2)
    form.group = torch.tensor([0] * 20 + [1] * 12)
    file = openvino.export(*alone(form), tmp_path / "file.onnx")
    assert file.baked == ("2.weight: grouped int4 weights",)
    assert file.integer_tensors == 0


# what does not work --------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\xff" * 500, None], ids=["empty", "noise", "cut"])
def test_a_damaged_file_is_refused(content, exported, tmp_path):
    whole = exported("residual")[2].path.read_bytes()
    (tmp_path / "damaged.onnx").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(LaconicError, match=r"OpenVINO cannot read .*damaged"):
        openvino.load(tmp_path / "damaged.onnx")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(LaconicError, match="there is no network at"):
        openvino.load(tmp_path / "nothing.onnx")


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("shape", [(2, 5, 8, 8), (2, 3, 10, 10), (2, 3, 8)], ids=str)
def test_inputs_that_do_not_fit_are_refused(shape, first, exported):
    _, example, file = exported("residual")
    session = openvino.load(file.path)
    if not first:
        session(example[0].numpy())
    with pytest.raises(LaconicError, match=rf"the network takes x: .*float32.*, but got float32 {re.escape(str(shape))}"):
        session(np.zeros(shape, np.float32))
    assert session(example[0].numpy()).shape == (2, 5)


def test_a_file_that_computes_something_else_is_refused_and_not_left_behind(tmp_path, monkeypatch):
    program, example = captured("residual")
    quantize(program, example)
    monkeypatch.setattr(openvino.Session, "__call__", lambda self, *inputs: np.zeros((len(inputs[0]), 5), np.float32))
    with pytest.raises(LaconicError, match="outputs differ from the program's by 1 of their size"):
        openvino.export(program, example, tmp_path / "file.onnx")
    assert not list(tmp_path.iterdir())


# time by layer -------------------------------------------------------------------------------------


def test_every_layer_has_its_time(tmp_path):
    torch.manual_seed(0)
    example = (torch.randn(8, 3, 64, 64),)
    program = quantize(capture(Residual().eval(), example), example)
    file = openvino.export(program, example, tmp_path / "file.onnx")
    spent = fresh.layer_seconds(fresh.File(file.path, "openvino"), example[0].numpy(), threads=1, calls=40)
    assert spent.keys() == {*LAYERS, ""}
    assert all(spent[name] > 0 for name in LAYERS)
