from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.errors import LaconicError
from laconic.program import Uniform, capture, clone, fold_batch_norm, packed, packed_bytes, read, weights
from laconic.program.observe import observe
from laconic.program.represent import edges, representations
from laconic.prune import Magnitude
from laconic.quantize import Static
from laconic.recipe import apply, not_kept
from laconic.runtimes import onnxruntime
from laconic.train import top1


def context_of(inputs, classes=3):
    part = Split(np.asarray(inputs, np.float32), np.zeros(len(inputs), np.int64))
    return Context(Splits(part, part, part, part))


def edge_of(program, name):
    """The quantizer behind the node called `name`."""
    return next(form for node, form in edges(program).items() if node.args[0].name == name)


def weight_form(program, name):
    [form] = [form for form in representations(program, name) if isinstance(form, Uniform)]
    return form


def folded(program):
    again = clone(program)
    fold_batch_norm(again)
    return again


def rms(value):
    return float(value.detach().double().pow(2).mean().sqrt())


# Weights


@pytest.mark.parametrize("weight_ranges", ["min-max", "mean-square"])
def test_every_weight_lies_on_the_grid_of_its_channel(program, context, weight_ranges):
    dense = {weight.name: weight.value.clone() for weight in weights(folded(program))}
    Static(weight_ranges=weight_ranges)(program, context)
    for weight in weights(program):
        form = weight_form(program, weight.name)
        scale = form.scale.detach().reshape(-1, *[1] * (weight.value.ndim - 1))
        assert form.scale.shape == (len(weight.value),)
        assert (form.scale > 0).all()
        assert not form.zero_point.any()
        codes = (weight.value / scale).double()
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
        assert codes.min() > -128.5
        assert codes.max() < 127.5
        inside = dense[weight.name].abs() <= 127 * scale
        error = (weight.value - dense[weight.name]).abs()
        assert (error <= scale / 2 * 1.001)[inside].all()


def test_min_max_maps_the_largest_weight_of_a_channel_to_the_highest_code(program, context):
    dense = {weight.name: weight.value.clone() for weight in weights(folded(program))}
    Static(weight_ranges="min-max")(program, context)
    for name, weight in dense.items():
        torch.testing.assert_close(weight_form(program, name).scale.detach(), weight.flatten(1).abs().amax(1) / 127)


def test_mean_square_has_no_larger_error_than_min_max_in_any_channel(program, context):
    weight_of = {}
    for ranges in ("min-max", "mean-square"):
        made = Static(weight_ranges=ranges, bias_correction=False)(clone(program), context)
        weight_of[ranges] = {weight.name: weight.value for weight in weights(made)}
    for weight in weights(folded(program)):
        errors = [((weight_of[ranges][weight.name] - weight.value) ** 2).flatten(1).sum(1) for ranges in ("mean-square", "min-max")]
        assert (errors[0] <= errors[1] * 1.0001).all()


def test_a_channel_without_weights_keeps_its_zeros_and_its_bias():
    model = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight[1] = 0
    program = Static(bias_correction=False)(capture(model, (torch.randn(2, 4),)), context_of(np.random.randn(20, 4)))
    assert not read(program, "0.weight")[1].any()
    out = program(torch.randn(5, 4))
    torch.testing.assert_close(out[:, 1], model[0].bias[1].expand(5))


def test_a_bias_fits_32_bits_at_the_scale_of_the_products():
    model = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight[1] *= 1e-9
        model[0].bias.copy_(torch.tensor([1.0, 50.0, -3.0]))
    program = Static(bias_correction=False)(capture(model, (torch.randn(2, 4),)), context_of(np.random.randn(20, 4)))
    scale = weight_form(program, "0.weight").scale.double() * edge_of(program, "input_1").scale.double()
    codes = model[0].bias.double() / scale
    assert codes.abs().max() < 2**31
    torch.testing.assert_close(program(torch.zeros(2, 4)), model(torch.zeros(2, 4)))


# Activations


def quantized_input(inputs, **settings):
    """Put a one-layer network through the step and return the grid of its input."""
    program = capture(nn.Sequential(nn.Linear(inputs.shape[1], 3)), (torch.randn(2, inputs.shape[1]),))
    form = edge_of(Static(**settings)(program, context_of(inputs)), "input_1")
    return form.scale.item(), form.zero_point.item()


@pytest.mark.parametrize(
    ("low", "high"),
    [(-1.0, 3.0), (-2.55, 0.0), (0.0, 5.1), (0.5, 2.55), (-2.0, -0.5)],
)
def test_min_max_covers_what_was_seen_and_zero(low, high):
    inputs = np.linspace(low, high, 40).reshape(10, 4)
    scale, zero_point = quantized_input(inputs, ranges="min-max")
    bottom, top = min(low, 0.0), max(high, 0.0)
    assert scale == pytest.approx((top - bottom) / 255, rel=1e-5)
    assert zero_point == round(-bottom / scale)


def test_the_range_is_over_all_batches_of_the_calibration_part():
    inputs = np.random.uniform(-1, 1, (200, 4))
    inputs[150, 2] = 9.0
    scale, _ = quantized_input(inputs, ranges="min-max")
    assert scale == pytest.approx((9.0 - inputs.min()) / 255, rel=1e-5)


@pytest.mark.parametrize("share", [0.9, 0.99, 0.999])
def test_percentile_leaves_half_of_the_rest_outside_on_each_side(share):
    inputs = np.random.default_rng(0).normal(size=(5000, 4)) * 2 + 0.5
    scale, zero_point = quantized_input(inputs, ranges="percentile", percentile=share)
    low, high = np.quantile(inputs, [(1 - share) / 2, (1 + share) / 2])
    bin_width = (inputs.max() - inputs.min()) / 2048
    assert -zero_point * scale == pytest.approx(low, abs=2 * bin_width + scale)
    assert (255 - zero_point) * scale == pytest.approx(high, abs=2 * bin_width + scale)


def test_percentile_of_values_that_start_at_zero_cuts_the_other_side_only():
    inputs = np.abs(np.random.default_rng(0).normal(size=(5000, 4)))
    inputs[0, 0] = 0.0
    scale, zero_point = quantized_input(inputs, ranges="percentile", percentile=0.99)
    assert zero_point == 0
    assert 255 * scale == pytest.approx(np.quantile(inputs, 0.99), rel=0.01)


def error_of(inputs, low, high):
    scale = (high - low) / 255
    zero_point = np.clip(np.round(-low / scale), 0, 255)
    codes = np.clip(np.round(inputs / scale) + zero_point, 0, 255)
    return (((codes - zero_point) * scale - inputs) ** 2).mean()


@pytest.mark.parametrize("tail", ["normal", "heavy", "positive"])
def test_mean_square_is_as_good_as_the_best_of_all_ranges(tail):
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(2000, 4)) if tail != "heavy" else generator.standard_t(3, size=(2000, 4))
    inputs = np.abs(inputs) if tail == "positive" else inputs
    inputs = inputs.astype(np.float32)
    scale, zero_point = quantized_input(inputs, ranges="mean-square")
    found = error_of(inputs, -zero_point * scale, (255 - zero_point) * scale)
    lows = np.linspace(0.2, 1, 33) * min(inputs.min(), 0)
    best = min(error_of(inputs, low, high) for low in np.unique(lows) for high in np.linspace(0.2, 1, 33) * inputs.max())
    assert found <= best * 1.1
    assert found <= error_of(inputs, min(inputs.min(), 0), inputs.max()) * 1.01, "but for the width of the bins"


@pytest.mark.parametrize("ranges", ["min-max", "percentile", "mean-square", "kl"])
def test_zero_is_a_level_of_every_grid_and_codes_are_whole_numbers_of_8_bits(program, context, ranges):
    Static(ranges=ranges)(program, context)
    for form in edges(program).values():
        assert form(torch.zeros(3)).eq(0).all()
        assert not form.signed
        assert form.bits == 8
        assert form.zero_point == form.zero_point.round()
        assert 0 <= form.zero_point <= 255
        levels = form(torch.linspace(-100, 100, 5001)).unique()
        assert len(levels) <= 256


def test_after_a_relu_all_codes_serve_positive_values(program, context):
    Static()(program, context)
    assert [float(edge_of(program, name).zero_point) for name in ("relu", "relu_1", "relu_2", "relu_3")] == [0] * 4


# Bias correction


def means(program, context, names):
    """Mean output per channel of the named layers over the calibration part."""
    found = {}
    nodes = [node for node in program.graph.nodes if node.name in names]
    inputs = torch.cat(list(context.calibration()))
    observe(program, [(inputs,)], nodes, lambda node, value: found.update({node.name: value.double().transpose(0, 1).flatten(1).mean(1)}))
    return found


LAYERS = ("conv2d", "conv2d_1", "conv2d_2", "conv2d_3", "linear")


def test_bias_correction_gives_every_channel_its_mean_output_back(program, context):
    wanted = means(folded(program), context, LAYERS)
    assert set(wanted) == set(LAYERS)
    shifted = means(Static(bias_correction=False)(clone(program), context), context, LAYERS)
    corrected = means(Static()(clone(program), context), context, LAYERS)
    for name in LAYERS:
        assert (shifted[name] - wanted[name]).abs().max() > 1e-4
        torch.testing.assert_close(corrected[name], wanted[name], rtol=0, atol=2e-6 * float(wanted[name].abs().max() + 1))


def test_bias_correction_moves_biases_only(program, context):
    plain, corrected = (Static(bias_correction=on)(clone(program), context) for on in (False, True))
    one, other = plain.state_dict(), corrected.state_dict()
    changed = {name for name in one if not torch.equal(one[name], other[name])}
    assert changed == {f"{layer}.bias" for layer in ("stem", "left", "right", "down", "head")}


def test_a_layer_without_bias_is_given_one():
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False))
    inputs = np.random.default_rng(0).normal(size=(64, 6)) + 1
    original = capture(model, (torch.randn(2, 6),))
    program = Static()(clone(original), context_of(inputs))
    found, wanted = (means(each, context_of(inputs), ("linear", "linear_1")) for each in (program, original))
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-6)


def test_the_means_are_over_positions_where_a_linear_layer_reads_sequences():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    inputs = np.random.default_rng(0).normal(size=(64, 5, 6)).astype(np.float32)
    original = capture(model, (torch.randn(2, 5, 6),))
    program = Static()(clone(original), context_of(inputs))
    data = torch.from_numpy(inputs)
    torch.testing.assert_close(program(data).mean((0, 1)), original(data).mean((0, 1)), rtol=0, atol=1e-5)


# The whole


def test_the_accuracy_on_the_digits_stays_within_two_points(program, context):
    before = top1(program, context.splits.test)
    for settings in (
        {},
        {"ranges": "min-max"},
        {"ranges": "percentile"},
        {"ranges": "kl"},
        {"equalization": True},
        {"weight_ranges": "mean-square"},
        {"bias_correction": False},
    ):
        made = Static(**settings)(clone(program), context)
        assert abs(top1(made, context.splits.test) - before) <= 0.02
    assert before > 0.93


def test_the_outputs_are_near_those_of_the_float_network(program, context):
    inputs, _ = context.splits.test.batch(slice(0, 100))
    before = program(inputs).detach()
    Static()(program, context)
    assert rms(program(inputs) - before) < 0.03 * rms(before)


def test_the_weights_cost_a_quarter(program, context):
    before = packed(program, "head.weight").bytes
    Static()(program, context)
    assert packed(program, "head.weight").bytes == before // 4 + 10 * 4


def test_batch_norms_are_gone_and_counted(program, context):
    Static()(program, context)
    assert not any("batch_norm" in str(node.target) for node in program.graph.nodes)
    assert context.notes[:2] == ["5 weights at 8 bits, 6 activations at 8 bits", "4 batch norms folded"]


def test_excluded_layers_stay_float(program, context):
    dense = {weight.name: weight.value.clone() for weight in weights(folded(program))}
    Static(exclude=("head", "stem"))(program, context)
    for name in ("head.weight", "stem.weight"):
        assert not representations(program, name)
        assert torch.equal(read(program, name), dense[name])
    assert {node.args[0].name for node in edges(program)} == {"relu", "relu_1", "conv2d_2", "relu_2", "relu_3"}


def test_only_included_layers_are_quantized(program, context):
    Static(include=("left",))(program, context)
    assert [weight.name for weight in weights(program) if representations(program, weight.name)] == ["left.weight"]
    assert {node.args[0].name for node in edges(program)} == {"relu", "relu_1"}


def test_a_quantized_network_is_not_quantized_again(program, context):
    Static()(program, context)
    with pytest.raises(LaconicError, match="activations are quantized already"):
        Static()(program, context)


def test_a_network_without_a_kernel_is_refused(context):
    model = nn.Embedding(5, 3)
    tokens = torch.tensor([[1, 2], [3, 4]])
    with pytest.raises(LaconicError, match="no convolution or linear layer"):
        Static()(capture(nn.Sequential(model), (tokens,)), context)


def test_zeros_of_a_pruned_network_stay_zero(program, context):
    Magnitude(sparsity=0.7)(program, context)
    zeros = {weight.name: weight.value == 0 for weight in weights(program)}
    Static()(program, context)
    for weight in weights(program):
        assert not weight.value[zeros[weight.name]].any()


def test_pruned_and_quantized_costs_the_codes_that_stay_and_the_mask(program, context):
    done = apply(program, [Magnitude(sparsity=0.75), Static()], context)
    assert packed(done.program, "head.weight").bytes == 640 + 320 + 40
    assert packed_bytes(done.program) < done.journal[0].bytes_before / 6


def test_the_result_does_not_depend_on_the_seed_and_not_on_the_mode(program, context):
    made = [Static()(clone(program).train(mode), replace(context, seed=seed)) for mode, seed in ((False, 0), (True, 1))]
    one, other = (each.state_dict() for each in made)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_fewer_calibration_inputs_than_a_batch_are_enough(program, context):
    few = replace(context, splits=replace(context.splits, calibration=context.splits.calibration.take(slice(0, 3))))
    inputs, labels = context.splits.test.batch(slice(0, 200))
    Static(ranges="min-max")(program, few)
    assert (program(inputs).argmax(1) == labels).float().mean() > 0.8


REFUSED = [
    {"ranges": "max"},
    {"percentile": 1.0},
    {"percentile": 0.5},
    {"bits": 8},
    {"weight_bits": 1},
    {"activation_bits": 9},
    {"ends_bits": 16},
    {"weight_granularity": "group"},
    {"rounding": "up"},
    {"iterations": 0},
]


@pytest.mark.parametrize("settings", REFUSED)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Static(**settings)


# Widths


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(4, 8), (8, 4), (4, 4), (3, 3), (2, 5)])
def test_all_but_the_ends_have_the_widths_asked_for(program, context, weight_bits, activation_bits):
    Static(weight_bits=weight_bits, activation_bits=activation_bits)(program, context)
    widths = {weight.name: weight_form(program, weight.name).bits for weight in weights(program)}
    inner = dict.fromkeys(("left.weight", "right.weight", "down.weight"), weight_bits)
    assert widths == {"stem.weight": 8, "head.weight": 8} | inner
    assert inputs_bits(program) == {"stem.weight": 8, "head.weight": 8} | dict.fromkeys(inner, activation_bits)
    sums = [node for node in program.graph.nodes if node.target is torch.ops.aten.add.Tensor]
    assert {edges(program)[operand].bits for node in sums for operand in node.args[:2]} == {8}
    for name in inner:
        codes = weight_form(program, name).codes(read(program, name))
        assert len(codes.unique()) <= 2**weight_bits
        assert packed(program, name).settings["bits"] == weight_bits


def inputs_bits(program):
    """The width of what each layer reads."""
    found = edges(program)
    return {weight.name: found[reader.args[0]].bits for weight in weights(program) for reader in weight.readers}


def test_a_layer_of_fewer_bits_than_the_sum_beside_it_reads_through_a_second_grid(program, context):
    Static(activation_bits=3)(program, context)
    second = {node.args[0]: form for node, form in edges(program).items() if node.args[0] in edges(program)}
    assert {form.bits for form in second.values()} == {3}
    assert {edges(program)[first].bits for first in second} == {8}
    sums = [node for node in program.graph.nodes if node.target is torch.ops.aten.add.Tensor]
    assert sums
    assert any(first in node.args for first in second for node in sums), "a value that is summed and convolved"


def test_sums_may_be_as_narrow_as_the_rest(program, context):
    Static(activation_bits=3, sum_bits=2)(program, context)
    assert sorted({form.bits for form in edges(program).values()}) == [3, 8]
    assert not any(node.args[0] in edges(program) for node in edges(program)), "no second grids are needed"


def test_the_ends_may_be_as_narrow_as_the_rest(program, context):
    Static(weight_bits=5, activation_bits=6, ends_bits=2, sum_bits=2)(program, context)
    assert {weight_form(program, weight.name).bits for weight in weights(program)} == {5}
    assert {form.bits for form in edges(program).values()} == {6}


def test_every_layer_that_reads_the_input_or_makes_the_output_is_an_end():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.inner = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 6)
            self.left, self.right = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            x = self.inner(torch.relu(self.one(x) + self.two(x)))
            return self.left(x) + torch.sigmoid(self.right(x))

    inputs = np.random.default_rng(0).normal(size=(64, 4))
    program = Static(weight_bits=4)(capture(Branches(), (torch.randn(2, 4),)), context_of(inputs))
    found = {weight.name: weight_form(program, weight.name).bits for weight in weights(program)}
    assert found == {"one.weight": 8, "two.weight": 8, "inner.weight": 4, "left.weight": 8, "right.weight": 8}


def test_narrow_weights_cost_their_bits(program, context):
    before = {name: packed(program, name).bytes for name in ("down.weight", "head.weight")}
    Static(weight_bits=4)(program, context)
    assert packed(program, "down.weight").bytes == before["down.weight"] // 8 + 16 * 4
    assert packed(program, "head.weight").bytes == before["head.weight"] // 4 + 10 * 4, "an end"


def test_one_scale_for_a_whole_weight(program, context):
    dense = {weight.name: weight.value.clone() for weight in weights(folded(program))}
    Static(weight_granularity="tensor")(program, context)
    for name, weight in dense.items():
        form = weight_form(program, name)
        assert form.scale.shape == ()
        assert form.axis is None
        torch.testing.assert_close(form.scale.detach(), weight.abs().max() / 127)


def test_one_scale_for_a_whole_weight_is_widened_for_the_bias_that_needs_most():
    model = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight.mul_(1e-9)
        model[0].bias.copy_(torch.tensor([1.0, 50.0, -3.0]))
    settings = {"bias_correction": False, "weight_granularity": "tensor"}
    program = Static(**settings)(capture(model, (torch.randn(2, 4),)), context_of(np.random.randn(20, 4)))
    assert weight_form(program, "0.weight").scale.shape == ()
    torch.testing.assert_close(program(torch.zeros(2, 4)), model(torch.zeros(2, 4)))


def test_what_a_runtime_must_execute_is_known_before_any_work():
    assert Static().forms == {"int8", "uint8"}
    assert Static(weight_bits=4, activation_bits=3).forms == {"int4", "uint3", "int8", "uint8"}
    assert Static(weight_bits=4, activation_bits=3, ends_bits=2, sum_bits=5).forms == {"int4", "uint3", "uint5"}
    assert not_kept([Static(weight_bits=4)], frozenset({"int8", "uint8"})) == ["quantize.Static: int4"]


@pytest.mark.parametrize("settings", [{"weight_bits": 4, "activation_bits": 4}, {"weight_granularity": "tensor"}, {"equalization": True}])
def test_the_exported_file_runs_in_integers_and_agrees(program, context, settings, tmp_path):
    Static(**settings)(program, context)
    file = onnxruntime.export(program, context.example(64), tmp_path / "file.onnx")
    assert file.kernels["QLinearConv"] == 4
    assert not {"Conv", "FusedConv"} & set(file.kernels)
    assert file.baked == ()
    assert file.difference < 0.05


# What cannot work


def test_calibration_inputs_of_another_shape_are_refused(program):
    with pytest.raises(LaconicError, match=r"shape \(1, 8, 9\), but the network takes \(1, 8, 8\)"):
        Static()(program, context_of(np.zeros((4, 1, 8, 9))))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_calibration_inputs_that_are_no_numbers_are_refused(program, bad):
    inputs = np.zeros((70, 1, 8, 8))
    inputs[66, 0, 2, 3] = bad
    with pytest.raises(LaconicError, match="NaN or infinite"):
        Static()(program, context_of(inputs))


def test_values_that_overflow_inside_the_network_are_refused_where_they_do(program, context):
    with torch.no_grad():
        program.get_submodule("left").weight.fill_(3e38)
    with pytest.raises(LaconicError, match=r"values of aten.relu.default at .* are not finite"):
        Static()(program, context)


def test_a_value_that_is_always_zero_says_nothing_about_its_range(program, context):
    with torch.no_grad():
        program.get_submodule("left_norm").weight.zero_()
        program.get_submodule("left_norm").bias.fill_(-1.0)
    with pytest.raises(LaconicError, match=r"the values of aten.relu.default at .* are zero"):
        Static()(program, context)
