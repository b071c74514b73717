from dataclasses import replace

import pytest
import torch
from torch import nn

from laconic.errors import LaconicError
from laconic.program import Uniform, capture, clone, read, weights
from laconic.program.represent import edges, representations
from laconic.prune import Magnitude
from laconic.quantize import Static, tune_outputs
from laconic.runtimes import onnxruntime

SETTINGS = {"weight_bits": 3, "activation_bits": 3, "sum_bits": 3, "weight_ranges": "mean-square"}


def grid_of(program, name):
    [grid] = [form for form in representations(program, name) if isinstance(form, Uniform)]
    return grid


def distance(program, other, split):
    inputs, _ = split.batch(slice(0, 300))
    with torch.no_grad():
        return float((program(inputs) - other(inputs)).square().mean())


@pytest.fixture
def pair(program, context):
    """The network at 3 bits, as rounded and as tuned."""
    return [Static(**SETTINGS, tuning_epochs=epochs)(clone(program), context) for epochs in (0, 6)]


def test_outputs_come_nearer_on_inputs_never_seen(program, context, pair):
    rounded, tuned = (distance(each, program, context.splits.test) for each in pair)
    assert tuned < 0.8 * rounded


def test_codes_of_weights_stay_and_their_scales_move(pair):
    rounded, tuned = pair
    for weight in weights(rounded):
        one, other = (grid_of(each, weight.name) for each in pair)
        assert torch.equal(one.codes(read(rounded, weight.name)), other.codes(read(tuned, weight.name)))
        assert not torch.equal(one.scale, other.scale)
        assert (other.scale > 0).all()
    assert [form.scale.item() for form in edges(rounded).values()] != [form.scale.item() for form in edges(tuned).values()]


def test_biases_move_and_nothing_else_does(pair):
    rounded, tuned = (each.state_dict() for each in pair)
    changed = {name for name in rounded if not torch.equal(rounded[name], tuned[name])}
    assert {f"{layer}.bias" for layer in ("stem", "left", "right", "down", "head")} <= changed
    assert all(name.endswith(("bias", "scale", "original")) for name in changed)


def test_no_gradient_is_left_behind_and_all_can_be_trained_on(pair):
    _, tuned = pair
    assert all(parameter.grad is None for parameter in tuned.parameters())
    assert all(parameter.requires_grad for parameter in tuned.parameters())


def test_what_a_mask_holds_at_zero_stays_zero(program, context):
    Magnitude(sparsity=0.6)(program, context)
    zeros = {weight.name: weight.value == 0 for weight in weights(program)}
    Static(**SETTINGS, tuning_epochs=1)(program, context)
    assert not any(weight.value[zeros[weight.name]].any() for weight in weights(program))


def test_a_network_that_does_not_come_nearer_is_left_as_it_was(program, context, monkeypatch):
    monkeypatch.setattr(tune_outputs, "_RATE", 10.0)
    made = [Static(**SETTINGS, tuning_epochs=epochs)(clone(program), context) for epochs in (0, 1)]
    inputs, _ = context.splits.test.batch(slice(0, 50))
    torch.testing.assert_close(made[0](inputs), made[1](inputs))
    errors = next(note for note in context.notes if "tuned" in note).split("error ")[1].split(" of")[0]
    before, after = errors.split(" -> ")
    assert before == after


def test_the_error_told_is_that_of_inputs_held_out(program, context, monkeypatch):
    quantized = Static(**SETTINGS)(clone(program), context)
    inputs = torch.cat(list(context.calibration()))
    before, after = tune_outputs.tune_outputs(quantized, program, weights(quantized), inputs, 2, context.generator())
    held = torch.randperm(len(inputs), generator=context.generator())[: len(inputs) // 4]
    with torch.no_grad():
        every, now = program(inputs), quantized(inputs)
    share = (now[held] - every[held]).square().mean() / every.square().mean()
    assert after == pytest.approx(float(share), rel=1e-4)
    assert after <= before


def test_the_result_is_the_same_for_the_same_seed(program, context):
    made = [Static(**SETTINGS, tuning_epochs=2)(clone(program), replace(context, seed=3)) for _ in range(2)]
    one, other = (each.state_dict() for each in made)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_layer_without_bias_is_given_one_that_learns(make_context):
    context = make_context()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12, bias=False), nn.ReLU(), nn.Linear(12, 4, bias=False))
    program = Static(**SETTINGS, ends_bits=3, bias_correction=False, tuning_epochs=10)(capture(model, context.example()), context)
    assert all(read(program, f"{layer}.bias").any() for layer in (1, 3))


def test_the_file_computes_what_was_tuned(context, pair, tmp_path):
    _, tuned = pair
    example = context.example(6)
    file = onnxruntime.export(tuned, example, tmp_path / "file.onnx")
    assert file.difference < 0.1
    assert file.kernels["QLinearConv"] == 4


def test_a_network_of_which_a_part_stays_float_is_tuned_too(program, context):
    original = clone(program)
    settings = SETTINGS | {"signal_to_noise": 14.0, "bias_correction": True}
    made = [Static(**settings, tuning_epochs=epochs)(clone(program), context) for epochs in (0, 3)]
    assert len(edges(made[1])) == len(edges(made[0]))
    assert distance(made[1], original, context.splits.test) < distance(made[0], original, context.splits.test)


def test_one_input_is_too_few(program, context):
    one = replace(context, splits=replace(context.splits, calibration=context.splits.calibration.take(slice(0, 1))))
    with pytest.raises(LaconicError, match="2 calibration inputs"):
        Static(tuning_epochs=1)(program, one)
