import pytest
import torch
from torch import nn

from laconic.numeric.codebook import normal_float
from laconic.program import Codebook, Half, Mask, Uniform, capture, clone, read, represent, represent_edge, tidy, weights
from laconic.program.lower import clip, dequantize, lower, unsupported
from laconic.program.lower import quantize as quantize_operation
from laconic.program.observe import observe
from laconic.program.represent import edges, represented, share_edge
from networks import captured, quantize

INTEGERS = frozenset({"int8", "uint8"})
WIDTHS = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in range(2, 9))
ALONE = INTEGERS | {"int8 weights", "uint8 weights"}  # of a runtime that also executes integer weights under float activations


def network():
    return captured("convolution")


def narrowed(activation, bits, zero_point=0.0, scale=0.2):
    """A layer, an activation, and a grid of so many bits behind it; with inputs that reach beyond both ends of the grid."""
    program = capture(nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3)), (torch.randn(2, 4),))
    node = next(node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default)
    node = next(iter(node.users)) if not isinstance(activation, nn.Identity) else node
    represent_edge(program, node, Uniform(torch.tensor(scale), torch.tensor(zero_point), bits, signed=False))
    tidy(program)
    return program, 20 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0))


ACTIVATIONS = {
    "none": nn.Identity(),
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(-0.5, 0.7),
    "away from zero": nn.Hardtanh(0.5, 1.1),
    "leaky": nn.LeakyReLU(0.3),
}


def operations(program, target):
    return [node for node in program.graph.nodes if node.target is target]


@pytest.mark.parametrize("name", ["convolution", "residual", "depthwise", "one-dimensional", "attention", "two-outputs"])
def test_a_quantized_program_becomes_integers_that_compute_the_same(name):
    program, example = captured(name)
    quantize(program, example)
    lowered = lower(program, INTEGERS)
    quantized = [name for name, _ in represented(program)]
    assert lowered.integer_weights == tuple(f"{name}_codes" for name in quantized)
    assert lowered.baked == ()
    for name in quantized:
        codes, scale = read(lowered.program, f"{name}_codes"), read(lowered.program, f"{name}_scale")
        assert codes.dtype == torch.int8
        assert scale.shape == (len(codes),)
        shape = (-1, *[1] * (codes.ndim - 1))
        torch.testing.assert_close(codes * scale.reshape(shape), read(program, name), rtol=1e-6, atol=0)
    assert len(operations(lowered.program, quantize_operation)) == len(edges(program)) > 0
    assert len(operations(lowered.program, dequantize)) == len(edges(program)) + len(quantized)
    assert not list(represented(lowered.program))
    assert not edges(lowered.program)
    ours, theirs = lowered.program(*example), program(*example)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_lowering_leaves_the_program_as_it_was():
    program, example = network()
    quantize(program, example)
    program.train()
    before = clone(program)
    lower(program, INTEGERS)
    assert program.training
    assert [str(node) for node in program.graph.nodes] == [str(node) for node in before.graph.nodes]
    assert all(torch.equal(a, b) for a, b in zip(program.state_dict().values(), before.state_dict().values(), strict=True))
    assert torch.equal(program.eval()(*example), before.eval()(*example))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_signed_and_unsigned_weights_with_any_zero_point_are_lowered(axis):
    program, example = network()
    channels = {None: (), 0: (5,), 1: (8,)}[axis]
    scale = torch.rand(channels, generator=torch.Generator().manual_seed(0)) * 0.01 + 0.001
    represent(program, "classifier.weight", Uniform(scale, torch.full(channels, 120.0), 8, signed=False, axis=axis))
    lowered = lower(program, ALONE)
    assert read(lowered.program, "classifier.weight_codes").dtype == torch.uint8
    assert read(lowered.program, "classifier.weight_zero_point").unique().tolist() == [120]
    torch.testing.assert_close(lowered.program(*example), program(*example))


def test_what_a_runtime_does_not_keep_is_written_dense_and_said_before_and_after():
    program, example = network()
    represent(program, "classifier.weight", Uniform(torch.tensor(0.05), torch.tensor(0.0), 4))
    represent(program, "features.0.0.weight", Mask(read(program, "features.0.0.weight") > 0))
    relu = next(node for node in program.graph.nodes if node.target is torch.ops.aten.relu.default)
    represent_edge(program, relu, Uniform(torch.tensor(0.2), torch.tensor(0.0), 4, signed=False))
    tidy(program)
    notes = unsupported(program, INTEGERS)
    lowered = lower(program, INTEGERS)
    assert lowered.baked == notes
    assert len(notes) == 3
    for name, form in (("classifier.weight", "int4"), ("features.0.0.weight", "sparse"), ("edges_relu", "uint4")):
        assert any(name in note and form in note for note in notes), (name, notes)
    assert lowered.integer_weights == ()
    assert torch.equal(lowered.program(*example), program(*example))
    assert not list(represented(lowered.program))
    assert not unsupported(quantize(*network()), INTEGERS)


@pytest.mark.parametrize("mask_first", [True, False])
def test_a_masked_and_quantized_weight_is_integer_with_its_zeros_in_either_order(mask_first):
    program, example = network()
    weight = weights(program, kinds=["linear"])[0]
    keep = torch.rand(weight.value.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    forms = [Mask(keep), Uniform(torch.tensor(0.01), torch.tensor(0.0), 8)]
    for form in forms if mask_first else forms[::-1]:
        represent(program, weight.name, form)
    lowered = lower(program, ALONE)
    assert lowered.integer_weights == (f"{weight.name}_codes",)
    assert not read(lowered.program, f"{weight.name}_codes")[~keep].any()
    torch.testing.assert_close(lowered.program(*example), program(*example))


@pytest.mark.parametrize(
    ("form", "word"),
    [
        (Uniform(torch.tensor(0.01), bits=8), "int8 weights"),
        (Uniform(torch.tensor(0.01), torch.tensor(120.0), 8, signed=False), "uint8 weights"),
        (Uniform(torch.full((5, 2), 0.01), bits=4, axis=0, group=torch.arange(8) // 4), "grouped int4 weights in groups of 4"),
        (Codebook(torch.tensor(0.1), torch.tensor([-1.0, 0.0, 1.0]), "ternary"), "ternary weights"),
        (Codebook(torch.full((5, 2), 0.1), normal_float(), "nf4", 0, torch.arange(8) // 4), "grouped nf4 weights"),
        (Half("bfloat16"), "bfloat16 weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weights_alone_are_dense_where_only_integers_that_meet_integers_are_kept(form, word):
    program, example = network()
    represent(program, "classifier.weight", form)
    lowered = lower(program, INTEGERS)
    assert lowered.baked == unsupported(program, INTEGERS) == (f"classifier.weight: {word}",)
    assert lowered.integer_weights == ()
    assert torch.equal(lowered.program(*example), program(*example))
    assert not unsupported(program, frozenset({word, "int2 weights"})), "ternary weights are whole numbers of 2 bits"


def test_padding_between_activations_and_weights_keeps_them_together():
    module = nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(3, 4, 3)).eval()
    program = capture(module, (torch.randn(2, 3, 8, 8),))
    placeholder = next(node for node in program.graph.nodes if node.op == "placeholder")
    represent_edge(program, placeholder, Uniform(torch.tensor(0.02), torch.tensor(120.0), 8, signed=False))
    represent(program, "1.weight", Uniform(torch.tensor(0.01), bits=8))
    tidy(program)
    assert lower(program, INTEGERS).integer_weights == ("1.weight_codes",)
    assert unsupported(program, INTEGERS - {"uint8"}) == ("1.weight: int8 weights", "_edges_input_1: activations uint8")


def test_a_tied_weight_is_lowered_once_for_both_readers():
    program, example = captured("tied")
    name = weights(program)[0].name
    represent(program, name, Uniform(torch.full((11,), 0.02), torch.zeros(11), 8, axis=0))
    lowered = lower(program, ALONE)
    assert lowered.integer_weights == (f"{name}_codes",)
    torch.testing.assert_close(lowered.program(*example), program(*example))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(
    ("bits", "zero_point", "scale"), [(8, 0.0, 0.02), (8, 77.0, 0.5), (4, 0.0, 0.2), (4, 5.0, 0.1), (3, 7.0, 0.3), (2, 0.0, 2.0)]
)
def test_an_activation_of_any_width_is_exact_in_8_bit_codes(name, bits, zero_point, scale):
    program, inputs = narrowed(ACTIVATIONS[name], bits, zero_point, scale)
    lowered = lower(program, WIDTHS)
    assert not lowered.baked
    torch.testing.assert_close(lowered.program(inputs), program(inputs), rtol=1e-5, atol=1e-5)
    codes = [node.args[0] for node in operations(lowered.program, dequantize)]
    seen = []
    observe(lowered.program, [(inputs,)], codes, lambda node, value: seen.append(value))
    assert seen[0].dtype == torch.uint8
    assert int(seen[0].max()) < 2**bits


@pytest.mark.parametrize(("name", "clipped"), [("none", False), ("relu", False), ("relu6", True), ("leaky", False)])
def test_codes_of_8_bits_are_clipped_only_where_an_activation_is_bounded_below_their_limits(name, clipped):
    program, _ = narrowed(ACTIVATIONS[name], 8, scale=0.1)
    lowered = lower(program, WIDTHS).program
    assert bool(operations(lowered, clip)) == clipped
    assert bool(operations(lowered, torch.ops.aten.leaky_relu.default)) == (name == "leaky")
    assert not operations(lowered, torch.ops.aten.relu.default)
    assert not operations(lowered, torch.ops.aten.relu6.default)


def test_a_bounded_activation_that_others_read_too_is_kept():
    program, example = captured("residual")
    relu = next(node for node in program.graph.nodes if node.target is torch.ops.aten.relu.default)
    reader = next(iter(relu.users))
    edge = represent_edge(program, relu, Uniform(torch.tensor(0.2), torch.tensor(0.0), 4, signed=False))
    for user in [user for user in edge.users if user is not reader]:
        user.replace_input_with(edge, relu)
    tidy(program)
    torch.testing.assert_close(lower(program, WIDTHS).program(*example), program(*example), rtol=1e-4, atol=1e-5)


def test_what_shares_a_grid_is_clipped_once():
    program, example = captured("convolution")
    pool = next(node for node in program.graph.nodes if node.target is torch.ops.aten.max_pool2d.default)
    edge = represent_edge(program, pool.args[0], Uniform(torch.tensor(0.1), torch.tensor(0.0), 4, signed=False))
    share_edge(program, pool, edge)
    tidy(program)
    lowered = lower(program, WIDTHS).program
    assert len(operations(lowered, quantize_operation)) == 2
    assert len(operations(lowered, clip)) == 1
    torch.testing.assert_close(lowered(*example), program(*example))


def test_the_operations_mean_what_onnx_says():
    x = torch.tensor([[-1.0, 0.25, 0.75, 100.0], [-1.0, 0.25, 0.75, 100.0]])
    scale, zero_point = torch.tensor([0.5, 0.25]), torch.tensor([3, 0], dtype=torch.uint8)
    codes = torch.ops.laconic.quantize(x, scale, zero_point, 0)
    assert codes.tolist() == [[1, 3, 5, 203], [0, 1, 3, 255]]  # 0.25 / 0.5 and 0.75 / 0.5 are ties: to the even whole number, then + 3
    assert torch.ops.laconic.dequantize(codes, scale, zero_point, 0).tolist() == [[-1.0, 0.0, 1.0, 100.0], [0.0, 0.25, 0.75, 63.75]]
    signed = torch.ops.laconic.quantize(x[:1], torch.tensor(0.5), torch.tensor(0, dtype=torch.int8), 0)
    assert signed.tolist() == [[-2, 0, 2, 127]]
    limits = torch.tensor(2, dtype=torch.uint8), torch.tensor(7, dtype=torch.uint8)
    assert torch.ops.laconic.clip(codes, *limits).tolist() == [[2, 3, 5, 7], [2, 2, 3, 7]]


def test_a_lowered_program_takes_any_batch():
    program, example = network()
    lowered = lower(quantize(program, example), INTEGERS).program
    for batch in (1, 5):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(lowered(x), program(x), rtol=1e-4, atol=1e-5)
    assert isinstance(lowered, nn.Module)
