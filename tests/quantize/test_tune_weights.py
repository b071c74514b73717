"""Tuning of weights: nearer to the float network on inputs never seen, on the grids, and exactly so in the file."""

from dataclasses import replace

import pytest
import torch

from laconic.errors import LaconicError
from laconic.program import capture, clone, load, read, save, weights
from laconic.program.forms import quantizer_of
from laconic.program.represent import representations
from laconic.prune import Magnitude
from laconic.quantize import WeightOnly, tune_weights
from laconic.quantize.imitate import divergence, imitate, outputs_of, squared_error

SETTINGS = {"format": "int2", "symmetric": False}


def far(program, whole, split):
    """Return the mean divergence of the answers and the squared error of the logits."""
    inputs, _ = split.batch(slice(0, 300))
    with torch.no_grad():
        ours, theirs = program(inputs), whole(inputs)
    chances = theirs.softmax(-1)
    apart = (chances * (theirs.log_softmax(-1) - ours.log_softmax(-1))).sum(-1).mean()
    return {"divergence": float(apart), "square": float((ours - theirs).square().mean() / theirs.square().mean())}


@pytest.mark.parametrize("loss", ["divergence", "square"])
@pytest.mark.parametrize("settings", [SETTINGS, {"format": "binary"}, {"format": "ternary", "granularity": "tensor"}], ids=str)
def test_outputs_come_nearer_on_inputs_never_seen(program, context, loss, settings):
    made = [WeightOnly(**settings, tuning_epochs=epochs, tuning_loss=loss)(clone(program), context) for epochs in (0, 6)]
    rounded, tuned = (far(each, program, context.splits.test)[loss] for each in made)
    assert tuned < 0.7 * rounded


def test_it_begins_where_rounding_by_curvature_ended(program, context):
    settings = SETTINGS | {"rounding": "gptq", "tuning_loss": "square"}
    made = [WeightOnly(**settings, tuning_epochs=epochs)(clone(program), context) for epochs in (0, 6)]
    rounded, tuned = (far(each, program, context.splits.test)["square"] for each in made)
    assert tuned < 0.9 * rounded


def test_codes_move_and_weights_lie_on_their_grids(program, context):
    rounded, tuned = (WeightOnly(**SETTINGS, tuning_epochs=epochs)(clone(program), context) for epochs in (0, 4))
    moved = 0
    for before, after in zip(weights(rounded), weights(tuned), strict=True):
        one, other = (quantizer_of(representations(each, before.name)) for each in (rounded, tuned))
        torch.testing.assert_close(other.decode(other.encode(after.value)), after.value)
        moved += int((one.encode(before.value) != other.encode(after.value)).sum())
        assert torch.equal(one.zero_point, other.zero_point)
    assert moved > 0


def test_the_packed_file_computes_what_was_tuned(program, context, tmp_path):
    tuned = WeightOnly(**SETTINGS, tuning_epochs=3)(program, context)
    save(tuned, tmp_path / "tuned.safetensors", pack=True)
    inputs, _ = context.splits.test.batch(slice(0, 50))
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "tuned.safetensors")(inputs), tuned.eval()(inputs))


def test_what_a_mask_holds_at_zero_stays_zero(program, context):
    Magnitude(sparsity=0.6)(program, context)
    zeros = {weight.name: weight.value == 0 for weight in weights(program)}
    WeightOnly(format="binary", tuning_epochs=2)(program, context)
    assert not any(weight.value[zeros[weight.name]].any() for weight in weights(program))


def test_a_network_that_does_not_come_nearer_is_left_as_it_was(program, context, monkeypatch):
    monkeypatch.setattr(tune_weights, "_RATE", 1000.0)
    rounded, tuned = (WeightOnly(**SETTINGS, tuning_epochs=epochs)(clone(program), context) for epochs in (0, 1))
    assert all(torch.equal(value, tuned.state_dict()[name]) for name, value in rounded.state_dict().items())


def test_the_divergence_told_is_that_of_inputs_held_out(program, context):
    quantized, inputs = WeightOnly(**SETTINGS)(clone(program), context), torch.cat(list(context.calibration()))
    _, after = tune_weights.tune_weights(quantized, program, inputs, "divergence", 2, context.generator())
    held = inputs[torch.randperm(len(inputs), generator=context.generator())[: len(inputs) // 8]]
    with torch.no_grad():
        wanted, found = program(held).log_softmax(-1), quantized(held).log_softmax(-1)
    assert after == pytest.approx(float((wanted.exp() * (wanted - found)).sum(-1).mean()), rel=1e-3)


def test_no_gradient_is_left_behind_and_the_result_is_the_same_for_the_same_seed(program, context):
    made = [WeightOnly(**SETTINGS, tuning_epochs=2)(clone(program), replace(context, seed=3)) for _ in range(2)]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in made[0].parameters())
    one, other = (each.state_dict() for each in made)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_network_of_several_outputs_is_tuned_on_all(make_context):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = torch.nn.Linear(64, 4), torch.nn.Linear(64, 3)

        def forward(self, x):
            return self.left(x.flatten(1)), self.right(x.flatten(1))

    context = make_context()
    torch.manual_seed(0)
    program = capture(Two(), context.example())
    before = read(program, "left.weight").detach().clone(), read(program, "right.weight").detach().clone()
    tuned = WeightOnly(**SETTINGS, tuning_epochs=2)(clone(program), context)
    plain = WeightOnly(**SETTINGS)(clone(program), context)
    for name, value in zip(("left.weight", "right.weight"), before, strict=True):
        assert not torch.equal(read(tuned, name), read(plain, name))
        assert torch.equal(read(program, name), value)


def test_distances_are_zero_where_outputs_agree_and_ignore_nothing_else():
    wanted = (torch.randn(4, 3), torch.randn(4, 5, 2))
    others = tuple(each + 1 for each in wanted)
    assert divergence(wanted, wanted).item() == pytest.approx(0, abs=1e-6)
    assert divergence(others, wanted).item() == pytest.approx(0, abs=1e-6), "logits are known up to a constant"
    assert squared_error(wanted)(wanted, wanted).item() == 0
    size = sum(float(each.square().sum()) for each in wanted) / 52
    assert squared_error(wanted)(others, wanted).item() == pytest.approx(1 / size, rel=1e-5)


def test_one_of_two_examples_is_held_out_and_one_learned_from(program, context):
    quantized = WeightOnly(**SETTINGS)(clone(program), context)
    inputs = torch.cat(list(context.calibration()))[:2]
    wanted = outputs_of(program, inputs)
    before, after = imitate(tune_weights._Whole(quantized, 0.5), inputs, wanted, divergence, 5, 1, context.generator())
    assert after <= before


def test_one_input_is_too_few(program, context):
    one = replace(context, splits=replace(context.splits, calibration=context.splits.calibration.take(slice(0, 1))))
    with pytest.raises(LaconicError, match="2 calibration inputs"):
        WeightOnly(tuning_epochs=1)(program, one)


@pytest.mark.parametrize("setting", ["tuning_epochs", "activation_aware"])
def test_what_is_near_enough_is_not_tuned(setting):
    with pytest.raises(ValueError, match=f"near enough to round to nearest; {setting} goes with fewer bits"):
        WeightOnly(format="float16", **{setting: True if setting == "activation_aware" else 1})
