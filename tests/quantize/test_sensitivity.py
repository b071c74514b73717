"""Sensitivities against programs in which the weight or the grid really is."""

from dataclasses import replace

import pytest
import torch

from laconic.program import Uniform, clone, fold_batch_norm, represent_edge, weights
from laconic.program.fold import assign
from laconic.program.noise import relative_error
from laconic.quantize.calibrate import grid_of, histograms_of
from laconic.quantize.candidates import Candidates
from laconic.quantize.correct import correct_biases, output_means
from laconic.quantize.placement import Sites, quantized_points
from laconic.quantize.sensitivity import Allotment, output_noise, outputs_together

BITS = (2, 4, 8)


@pytest.fixture
def folded(program):
    fold_batch_norm(program)
    return program.eval()


@pytest.fixture
def inputs(context):
    return torch.cat(list(context.calibration()))[:48]


@pytest.fixture
def candidates(folded, inputs):
    chosen = weights(folded)
    sites = Sites(folded, tuple(chosen), quantized_points(folded, chosen))
    histograms = histograms_of(folded, list(sites.points), [(inputs,)])

    def value_grid(node, bits):
        return grid_of(histograms[node], bits, "min-max", 0.999)

    return Candidates(sites, BITS, BITS, weight_grid, value_grid, learned=False, corrected=False)


def weight_grid(weight, bits):
    largest = weight.value.flatten(1).abs().amax(1)
    return Uniform(largest / (2 ** (bits - 1) - 1), bits=bits, axis=0)


def error(program, whole, inputs):
    with torch.no_grad():
        wanted = whole(inputs)
        return float((program(inputs) - wanted).double().square().sum() / wanted.double().square().sum())


def test_the_noise_of_a_weight_is_that_of_the_program_that_has_it_rounded(candidates, folded, inputs):
    losses = output_noise(candidates, inputs, inputs)
    assert losses.weights.keys() == {weight.name for weight in weights(folded)}
    for weight in weights(folded):
        for bits in BITS:
            other = clone(folded)
            with torch.no_grad():
                assign(other, weight.name, weight_grid(weight, bits)(weight.value))
            assert losses.weights[weight.name][bits] == pytest.approx(error(other, folded, inputs), rel=1e-4)


def test_the_noise_of_values_is_that_of_the_program_with_the_grid_behind_them(candidates, folded, inputs):
    losses = output_noise(candidates, inputs, inputs)
    assert losses.activations.keys() == candidates.sites.points.keys()
    for node, of_node in losses.activations.items():
        for bits, noise in of_node.items():
            other = clone(folded)
            place_of = next(each for each in other.graph.nodes if each.name == node.name)
            represent_edge(other, place_of, candidates.value_grid(node, bits))
            other.recompile()
            assert noise == pytest.approx(error(other, folded, inputs), rel=1e-4)


def test_where_biases_will_be_corrected_the_noise_is_that_with_the_layers_bias_corrected(candidates, folded, inputs):
    losses = output_noise(replace(candidates, corrected=True), inputs, inputs)
    for weight in weights(folded):
        other, [reader] = clone(folded), weight.readers
        layers = {reader.name: -1 if weight.kind == "linear" else 1}
        wanted = output_means(folded, layers, [(inputs,)])
        with torch.no_grad():
            assign(other, weight.name, weight_grid(weight, 2)(weight.value))
        correct_biases(other, layers, wanted, (inputs,))
        assert losses.weights[weight.name][2] == pytest.approx(error(other, folded, inputs), rel=1e-3)


def test_all_together_is_the_program_with_everything_rounded(candidates, folded, inputs):
    points = candidates.sites.points
    widths = Allotment({weight.name: 4 for weight in weights(folded)}, dict.fromkeys(points, 4))
    whole, found = outputs_together(candidates, widths, inputs, inputs)
    other = clone(folded)
    for weight in weights(folded):
        with torch.no_grad():
            assign(other, weight.name, weight_grid(weight, 4)(weight.value))
    for node in points:
        represent_edge(other, next(each for each in other.graph.nodes if each.name == node.name), candidates.value_grid(node, 4))
    other.recompile()
    with torch.no_grad():
        torch.testing.assert_close(whole, folded(inputs))
        torch.testing.assert_close(found, other(inputs), rtol=1e-3, atol=1e-3)


def test_weights_whose_rounding_will_be_learned_make_less_noise_in_sum(candidates, inputs, context):
    others = torch.cat(list(context.calibration()))[48:]
    nearest, learned = (output_noise(replace(candidates, learned=learned), inputs, others) for learned in (False, True))
    for bits in BITS:
        assert sum(each[bits] for each in learned.weights.values()) < 0.7 * sum(each[bits] for each in nearest.weights.values())


def test_the_program_is_left_as_it_was(candidates, folded, inputs):
    before = {name: tensor.clone() for name, tensor in folded.state_dict().items()}
    output_noise(replace(candidates, learned=True, corrected=True), inputs, inputs)
    assert all(torch.equal(before[name], tensor) for name, tensor in folded.state_dict().items())


def test_the_noise_of_nothing_is_finite():
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0


def test_the_inputs_that_weights_are_rounded_by_are_not_those_that_the_noise_is_measured_on(candidates, inputs, context):
    """A layer of 256 inputs fits 10 examples better than others."""
    learned, others = replace(candidates, learned=True), torch.cat(list(context.calibration()))[48:58]
    own, held_out = (output_noise(learned, measured, others).weights["head.weight"][4] for measured in (others, inputs))
    assert held_out > 1.5 * own
