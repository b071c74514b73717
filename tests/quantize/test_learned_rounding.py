import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.program import Uniform, capture, clone, fold_batch_norm, read, weights
from laconic.program.represent import representations
from laconic.prune import Magnitude
from laconic.quantize import Static, learned_rounding
from laconic.quantize.learned_rounding import learned_codes


def problem(seed, outputs=4, inputs=6, samples=40, groups=1):
    """Weights in units of their scale, and the moments of correlated inputs whose wanted outputs are those of the weights themselves."""
    generator = torch.Generator().manual_seed(seed)
    scaled = torch.rand(groups, outputs, inputs, generator=generator) * 6 - 3
    rows = torch.randn(groups, samples, inputs, generator=generator) @ torch.rand(groups, inputs, inputs, generator=generator) + 0.5
    moments = rows.mT @ rows / samples
    return scaled, moments, scaled @ moments


def error(codes, moments, products):
    return (codes * (codes @ moments - 2 * products)).sum(-1)


def best(scaled, moments, products, limits):
    """The least error of every output over all ways of rounding up and down."""
    found = torch.full(scaled.shape[:2], torch.inf)
    for ups in itertools.product((0.0, 1.0), repeat=scaled.shape[-1]):
        codes = (scaled.floor() + torch.tensor(ups)).clamp(*limits)
        found = torch.minimum(found, error(codes, moments, products))
    return found


@pytest.mark.parametrize("groups", [1, 3])
def test_most_of_what_the_best_of_all_roundings_gains_is_found(groups):
    left = gained = 0.0
    for seed in range(8):
        scaled, moments, products = problem(seed, groups=groups)
        codes = learned_codes(scaled, moments, products, (-8, 7), iterations=100)
        nearest, optimum = error(scaled.round(), moments, products), best(scaled, moments, products, (-8, 7))
        learned = error(codes, moments, products)
        assert (learned <= nearest + 1e-4).all()
        assert (learned >= optimum - 1e-4).all()
        left, gained = left + float((learned - optimum).sum()), gained + float((nearest - optimum).sum())
    assert left < 0.35 * gained


def test_codes_are_whole_numbers_next_to_the_weights_and_within_the_limits():
    scaled, moments, products = problem(0, outputs=20)
    codes = learned_codes(scaled, moments, products, (-2, 1), iterations=50)
    assert torch.equal(codes, codes.round())
    assert ((codes - scaled.clamp(-2, 1)).abs() <= 1).all()
    assert codes.min() >= -2
    assert codes.max() <= 1


def test_where_inputs_have_nothing_to_do_with_each_other_the_nearest_is_best():
    scaled = problem(1)[0]
    moments = torch.eye(6)[None]
    assert torch.equal(learned_codes(scaled, moments, scaled @ moments, (-8, 7), iterations=100), scaled.round())


def test_zeros_stay_zero():
    scaled, moments, products = problem(2)
    scaled[:, :, ::2] = 0
    assert not learned_codes(scaled, moments, products, (-8, 7), iterations=100)[:, :, ::2].any()


# In a network


def context_of(example, count=64):
    """Inputs that have much in common, as those of a layer do: white noise is rounded best to the nearest."""
    generator, shape = torch.Generator().manual_seed(1), example[0].shape[1:]
    common = torch.randn(count, *[1] * len(shape), generator=generator)
    inputs = (common + 0.4 * torch.randn(count, *shape, generator=generator)).numpy()
    part = Split(inputs, torch.zeros(count, dtype=torch.long).numpy())
    return Context(Splits(part, part, part, part))


def distance(program, other, context):
    with torch.no_grad():
        return sum(float((program(x) - other(x)).pow(2).sum()) for x in context.calibration())


LAYERS = {
    "convolution": (lambda: nn.Conv2d(6, 8, 3, stride=2, padding=1), (2, 6, 9, 9)),
    "no bias": (lambda: nn.Conv2d(6, 8, 3, bias=False), (2, 6, 9, 9)),
    "grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2, dilation=2), (2, 6, 9, 9)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), (2, 6, 9, 9)),
    "one dimension": (lambda: nn.Conv1d(6, 8, 5, padding=2), (2, 6, 20)),
    "linear": (lambda: nn.Linear(30, 8), (2, 30)),
    "linear on sequences": (lambda: nn.Linear(30, 8), (2, 5, 30)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_the_output_of_a_layer_of_any_kind_comes_nearer(name, bias_correction, granularity):
    factory, shape = LAYERS[name]
    example = (torch.zeros(shape),)
    program, context = capture(nn.Sequential(factory()).eval(), example), context_of(example)
    settings = {"weight_bits": 3, "ends_bits": 3, "activation_bits": 8, "iterations": 100, "weight_granularity": granularity}
    made = [Static(**settings, bias_correction=bias_correction, rounding=how)(clone(program), context) for how in ("nearest", "layer")]
    nearest, learned = (distance(each, program, context) for each in made)
    assert learned < 0.9 * nearest


@pytest.mark.parametrize("bias_correction", [True, False])
def test_a_trained_network_comes_nearer_to_what_it_was(program, context, bias_correction):
    settings = {"weight_bits": 3, "bias_correction": bias_correction}
    made = [Static(**settings, rounding=how)(clone(program), context) for how in ("nearest", "layer")]
    nearest, learned = (distance(each, program, context) for each in made)
    assert learned < 0.6 * nearest


def test_every_code_is_one_of_the_two_next_to_the_weight(program, context):
    dense = clone(program)
    fold_batch_norm(dense)
    Static(weight_bits=4, rounding="layer", iterations=30)(program, context)
    for weight in weights(program):
        [grid] = [form for form in representations(program, weight.name) if isinstance(form, Uniform)]
        step = grid.step.detach().reshape(-1, *[1] * (weight.value.ndim - 1))
        assert ((weight.value - read(dense, weight.name)).abs() < step * 1.001).all()
        torch.testing.assert_close(grid.codes(weight.value).detach() * step, weight.value)
    assert any("rounding learned for 5 weights" in note for note in context.notes)


def test_what_a_mask_holds_at_zero_stays_zero(program, context):
    Magnitude(sparsity=0.6)(program, context)
    zeros = {weight.name: weight.value == 0 for weight in weights(program)}
    Static(weight_bits=4, rounding="layer", iterations=30)(program, context)
    assert not any(weight.value[zeros[weight.name]].any() for weight in weights(program))


def test_the_result_is_the_same_for_the_same_seed(program, context):
    made = [Static(weight_bits=4, rounding="layer", iterations=20)(clone(program), replace(context, seed=3)) for _ in range(2)]
    one, other = (each.state_dict() for each in made)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_weight_that_two_layers_share_is_rounded_to_nearest_and_named():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.relu(self.inner(torch.relu(self.inner(x)))))

    example = (torch.randn(2, 6),)
    context = context_of(example)
    Static(weight_bits=4, rounding="layer", iterations=10)(capture(Shared(), example), context)
    assert any("rounding learned for 1 weights, not for inner.weight" in note for note in context.notes)


def test_activations_are_not_kept_for_gradients(program, context, monkeypatch):
    """With them a network of many large activations would not fit into memory."""
    seen = []
    measured = learned_rounding._measured

    def noted(layer, inputs, outputs, generator):
        seen.append(inputs.requires_grad or outputs.requires_grad)
        return measured(layer, inputs, outputs, generator)

    monkeypatch.setattr(learned_rounding, "_measured", noted)
    Static(weight_bits=4, rounding="layer", iterations=2)(program, context)
    assert seen
    assert not any(seen)
