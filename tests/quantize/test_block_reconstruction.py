from dataclasses import replace

import pytest
import torch
from torch import nn

from laconic.data import Split, Splits
from laconic.errors import NotApplicableError
from laconic.program import Uniform, capture, clone, fold_batch_norm, read, weights
from laconic.program.represent import edges, representations
from laconic.prune import Magnitude
from laconic.quantize import Mixed, Static, block_reconstruction
from networks import captured

SETTINGS = {"weight_bits": 2, "weight_ranges": "mean-square", "iterations": 100}


def distance(program, other, split):
    inputs, _ = split.batch(slice(0, 300))
    with torch.no_grad():
        return float((program(inputs) - other(inputs)).square().mean())


def made(program, context, **settings):
    return Static(**SETTINGS | settings)(clone(program), context)


def grid_of(program, name):
    [grid] = [form for form in representations(program, name) if isinstance(form, Uniform)]
    return grid


def test_outputs_come_nearer_on_inputs_never_seen_than_layer_by_layer(program, context):
    layer, block = (distance(made(program, context, rounding=how), program, context.splits.test) for how in ("layer", "block"))
    assert block < 0.8 * layer
    assert any("4 blocks reconstructed" in note for note in context.notes)


@pytest.mark.parametrize("fisher", ["labels", "predictions"])
def test_weighted_errors_are_learned_from_too_and_differently(program, context, fisher):
    layer = made(program, context, rounding="layer")
    plain, weighted = (made(program, context, rounding="block", fisher=how) for how in (None, fisher))
    assert distance(weighted, program, context.splits.test) < distance(layer, program, context.splits.test)
    assert not torch.equal(read(plain, "left.bias"), read(weighted, "left.bias"))


def test_labels_play_no_part_unless_asked_for(program, context):
    split = context.splits.calibration
    wrong = replace(context, splits=replace(context.splits, calibration=replace(split, labels=(split.labels + 1) % 10)))
    for fisher, same in ((None, True), ("predictions", True), ("labels", False)):
        settings = {"rounding": "block", "fisher": fisher, "iterations": 10}
        one, other = (read(made(program, each, **settings), "head.bias") for each in (context, wrong))
        assert torch.equal(one, other) is same


def test_weights_lie_on_their_grids_and_codes_are_next_to_the_weights_in_the_steps_rounded_by(program, context):
    dense = clone(program)
    fold_batch_norm(dense)
    layer, block = (made(program, context, rounding=how) for how in ("layer", "block"))
    for weight in weights(block):
        before, after, value = grid_of(layer, weight.name), grid_of(block, weight.name), read(block, weight.name)
        codes = after.codes(value)
        torch.testing.assert_close(codes * after.step.reshape(-1, *[1] * (value.ndim - 1)), value)
        scaled = read(dense, weight.name) / before.step.reshape(-1, *[1] * (value.ndim - 1))
        limits = (-(2 ** (after.bits - 1)), 2 ** (after.bits - 1) - 1)
        assert ((codes - scaled.clamp(*limits)).abs() < 1.001).all()


def test_roundings_turn_and_steps_of_activations_move(program, context):
    layer, block = (made(program, context, rounding=how) for how in ("layer", "block"))
    turned = [(grid_of(block, w.name).codes(w.value) != grid_of(layer, w.name).codes(read(layer, w.name))).any() for w in weights(block)]
    assert any(turned)
    one, other = ([form.scale.item() for form in edges(each).values()] for each in (layer, block))
    assert all(before != after for before, after in zip(one, other, strict=True))
    assert any("4 blocks reconstructed" in note for note in context.notes)


def test_what_a_mask_holds_at_zero_stays_zero(program, context):
    Magnitude(sparsity=0.6)(program, context)
    zeros = {weight.name: weight.value == 0 for weight in weights(program)}
    block = made(program, context, rounding="block")
    assert not any(weight.value[zeros[weight.name]].any() for weight in weights(block))


def test_the_result_is_the_same_for_the_same_seed_and_no_gradient_is_left(program, context):
    found = [made(program, replace(context, seed=3), rounding="block", fisher="predictions", iterations=20) for _ in range(2)]
    one, other = (each.state_dict() for each in found)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in found[0].parameters())


def test_a_block_that_does_not_come_nearer_is_left_as_it_was(program, context, monkeypatch):
    monkeypatch.setattr(block_reconstruction, "_RATE", 5.0)
    monkeypatch.setattr(block_reconstruction, "_RELATIVE", 3.0)
    layer, block = (made(program, context, rounding=how) for how in ("layer", "block"))
    inputs, _ = context.splits.test.batch(slice(0, 300))
    torch.testing.assert_close(block(inputs), layer(inputs))
    assert any("0 blocks reconstructed, not those of stem.weight" in note for note in context.notes)


def test_layers_that_share_a_weight_keep_it(splits, context):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.flatten, self.first, self.inner, self.head = nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

        def forward(self, x):
            x = torch.relu(self.first(self.flatten(x)))
            return self.head(torch.relu(self.inner(torch.relu(self.inner(x)))))

    program = capture(Shared().eval(), context.example())
    nearest, block = (read(made(program, context, rounding=how, iterations=10), "inner.weight") for how in ("nearest", "block"))
    assert torch.equal(nearest, block)


def test_widths_chosen_layer_by_layer_are_reconstructed_too(program, context):
    Mixed(weight_bits=(2, 3, 4), average_bits=3, examples=32, rounding="block", iterations=20)(program, context)
    assert any("blocks reconstructed" in note for note in context.notes)


def test_blocks_are_learned_before_a_network_has_several_outputs_and_weighing_them_is_an_error(context):
    program, example = captured("two-outputs")
    inputs = torch.randn(64, 1) + 0.3 * torch.randn(64, *example[0].shape[1:])
    part = Split(inputs.numpy(), torch.zeros(64, dtype=torch.long).numpy())
    other = replace(context, splits=Splits(part, part, part, part))
    made(program, other, rounding="block", ends_bits=2)
    assert any("1 blocks reconstructed" in note for note in context.notes)
    with pytest.raises(NotApplicableError, match="fisher: predictions needs one output, the logits, and this network has 2"):
        made(program, other, rounding="block", fisher="predictions")


def test_fisher_without_blocks_is_an_error_that_says_what_it_needs():
    with pytest.raises(ValueError, match="needs rounding: block; got rounding: layer"):
        Static(rounding="layer", fisher="labels")
