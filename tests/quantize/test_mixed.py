import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.errors import LaconicError, UnreachableError
from laconic.measure import macs_per_node
from laconic.program import Uniform, capture, clone, fold_batch_norm, packed_bytes, read, weights
from laconic.program.represent import edges, representations
from laconic.prune import Magnitude
from laconic.quantize import Mixed, Static
from laconic.quantize.budget import Budget, bits_budget, mac_bits_budget, widths_within
from laconic.quantize.placement import Sites, points_read, quantized_points
from laconic.quantize.sensitivity import Losses
from laconic.recipe import apply
from laconic.runtimes import onnxruntime

QUICK = {"rounding": "nearest", "examples": 32}


def context_of(inputs, classes=3):
    part = Split(np.asarray(inputs, np.float32), np.zeros(len(inputs), np.int64))
    return Context(Splits(part, part, part, part))


def form(program, name):
    [found] = [each for each in representations(program, name) if isinstance(each, Uniform)]
    return found


def widths_of(program):
    return {weight.name: form(program, weight.name).bits for weight in weights(program)}


def average(program):
    sizes = {weight.name: weight.value.numel() for weight in weights(program)}
    return sum(sizes[name] * bits for name, bits in widths_of(program).items()) / sum(sizes.values())


def mac_bits(program, context):
    """Weight bits x activation bits per multiply-accumulate, read off the quantized program."""
    macs, total, spent = macs_per_node(program, context.example()), 0, 0
    grids = edges(program)
    for weight in weights(program):
        for reader in weight.readers:
            total += macs[reader.name]
            spent += macs[reader.name] * form(program, weight.name).bits * grids[reader.all_input_nodes[0]].bits
    return spent / total


def noise(program, whole, split):
    inputs, _ = split.batch(slice(None))
    with torch.no_grad():
        wanted = whole(inputs)
        return float((program(inputs) - wanted).square().sum() / wanted.square().sum())


# Budgets


@pytest.mark.parametrize("bits", [2.5, 3, 4, 6.2])
def test_the_average_is_met_and_nearly_used_up(program, context, bits):
    Mixed(average_bits=bits, **QUICK)(program, context)
    assert bits - 0.5 < average(program) <= bits


def test_four_bits_are_the_budget_where_none_is_given(program, context):
    Mixed(**QUICK)(program, context)
    assert 3.5 < average(program) <= 4


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_the_packed_bytes_of_the_whole_network_are_met_to_the_byte(program, context, granularity, bias_correction):
    step = Mixed(bytes=2500, weight_granularity=granularity, bias_correction=bias_correction, **QUICK)
    step(program, context)
    found = packed_bytes(program)
    assert 2300 < found <= 2500
    assert f"widths within 2,500 bytes: {found:,} bytes" in context.notes[0], "what was foretold is what it has become"


def test_a_layer_that_is_given_a_bias_pays_for_it():
    model = nn.Sequential(nn.Linear(40, 30, bias=False), nn.ReLU(), nn.Linear(30, 20, bias=False))
    context = context_of(np.random.default_rng(0).normal(size=(40, 40)))
    program = Mixed(bytes=1400, **QUICK)(capture(model, (torch.randn(2, 40),)), context)
    assert f": {packed_bytes(program):,} bytes" in context.notes[0]
    assert packed_bytes(program) <= 1400


@pytest.mark.parametrize("budget", [10, 16, 30.5])
def test_the_products_of_widths_are_met_and_activations_differ_too(program, context, budget):
    Mixed(mac_bits=budget, activation_bits=(2, 3, 4, 5, 6, 8), **QUICK)(program, context)
    assert 0.8 * budget < mac_bits(program, context) <= budget
    assert len({grid.bits for grid in edges(program).values()}) > 1


def test_what_is_held_at_zero_costs_no_bits(program, context):
    done = apply(program, [Magnitude(sparsity=0.75), Mixed(average_bits=4, **QUICK)], context)
    entries = {weight.name: int((weight.value != 0).sum()) for weight in weights(program)}
    zeros = sum(weight.value.numel() for weight in weights(done.program)) - sum(entries.values())
    masks = {n: f[0].keep for n in widths_of(done.program) if (f := representations(done.program, n))}
    held = sum(int((~keep).sum()) for keep in masks.values())
    assert zeros >= held > 0
    coded = {name: int(keep.sum()) for name, keep in masks.items()}
    found = sum(coded[name] * bits for name, bits in widths_of(done.program).items()) / sum(coded.values())
    assert 3.5 < found <= 4


# The allocation


def sites_of(program):
    fold_batch_norm(program)
    chosen = weights(program)
    return Sites(program, tuple(chosen), quantized_points(program, chosen))


def drawn_losses(sites, weight_bits, activation_bits, seed):
    """Losses that fall with the width, by a law with noise."""
    generator = np.random.default_rng(seed)

    def of(widths):
        scale = 10 ** generator.uniform(-2, 1)
        return {bits: float(scale * 4.0**-bits * generator.uniform(0.7, 1.4)) for bits in widths}

    return Losses({weight.name: of(weight_bits) for weight in sites.weights}, {node: of(activation_bits) for node in sites.points})


@pytest.mark.parametrize("seed", range(5))
def test_the_widths_of_weights_are_the_best_of_all(program, seed):
    sites = sites_of(program)
    losses, budget = drawn_losses(sites, (2, 3, 4, 8), (8,), seed), bits_budget(sites, 3.7)
    found, allocation = widths_within(budget, sites, losses)
    names, best = [weight.name for weight in sites.weights], math.inf
    for choice in itertools.product((2, 3, 4, 8), repeat=len(names)):
        if sum(budget.cost(name, bits, 8) for name, bits in zip(names, choice, strict=True)) <= budget.limit:
            best = min(best, sum(losses.weights[name][bits] for name, bits in zip(names, choice, strict=True)))
    assert sum(losses.weights[name][bits] for name, bits in found.weights.items()) == pytest.approx(best, rel=1e-12)
    assert allocation.gap == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_widths_of_weights_and_activations_together_are_the_best_of_all(program, context, seed):
    sites = sites_of(program)
    losses = drawn_losses(sites, (2, 4), (2, 8), seed)
    budget = mac_bits_budget(sites, 14, macs_per_node(program, context.example()))
    found, allocation = widths_within(budget, sites, losses)
    read, names = points_read(sites.points, sites.kernels), [weight.name for weight in sites.weights]
    inner = next(node for node in sites.points if node.name == "conv2d_2")  # goes into the sum, whose width it has
    values = [node for node in sites.points if node is not inner]
    after = next(node for node in sites.points if node.name == "relu_2")
    best = math.inf
    for of_values in itertools.product((2, 8), repeat=len(values)):
        bits = dict(zip(values, of_values, strict=True))
        bits[inner] = bits[after]
        constant = sum(losses.activations[node][bits[node]] for node in sites.points)
        for of_weights in itertools.product((2, 4), repeat=len(names)):
            chosen = dict(zip(names, of_weights, strict=True))
            cost = sum(budget.cost(each.name, chosen[each.name], bits[read[each.readers[0]]]) for each in sites.weights)
            if cost <= budget.limit:
                best = min(best, constant + sum(losses.weights[name][chosen[name]] for name in names))
    assert allocation.loss == pytest.approx(best, rel=1e-12)
    loss = sum(losses.weights[n][b] for n, b in found.weights.items()) + sum(losses.activations[n][b] for n, b in found.activations.items())
    assert loss == pytest.approx(best, rel=1e-12)


def test_the_layer_on_which_the_output_depends_gets_most_bits():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        model[2].weight.copy_(0.01 * torch.randn(16, 16, generator=generator))
        model[2].bias.fill_(1.0)  # what comes out is nearly constant, whatever went in
    program = capture(model, (torch.randn(2, 16),))
    Mixed(average_bits=4, bias_correction=False, **QUICK)(program, context_of(np.random.default_rng(0).normal(size=(64, 16)), 4))
    widths = widths_of(program)
    assert widths["4.weight"] > max(widths["0.weight"], widths["2.weight"])


# The whole


@pytest.mark.parametrize("rounding", ["nearest", "layer"])
@pytest.mark.parametrize("sensitivity", ["noise", "curvature"])
def test_there_is_less_noise_than_with_wide_ends_at_no_more_bits(program, context, rounding, sensitivity):
    """On images that did not calibrate."""
    whole, shared = clone(program).eval(), {"weight_ranges": "mean-square", "rounding": rounding, "iterations": 50}
    uniform = Static(weight_bits=2, **shared)(clone(program), context)
    mixed = Mixed(average_bits=average(uniform), sensitivity=sensitivity, **shared)(clone(program), context)
    assert average(mixed) <= average(uniform)
    assert noise(mixed, whole, context.splits.validation) < 0.5 * noise(uniform, whole, context.splits.validation)


def test_given_the_widths_it_is_static_quantization(program, context):
    shared = {"weight_ranges": "mean-square", "bias_correction": False}
    mixed = Mixed(weight_bits=(4, 8), average_bits=7, rounding="nearest", bias_correction=False)(clone(program), context)
    static = {bits: Static(weight_bits=bits, ends_bits=2, **shared)(clone(program), context) for bits in (4, 8)}
    assert set(widths_of(mixed).values()) == {4, 8}
    for name, bits in widths_of(mixed).items():
        assert torch.equal(read(mixed, name), read(static[bits], name))


def test_the_journal_has_a_line_for_every_layer_and_says_how_well_the_sum_foretold(program, context):
    Mixed(average_bits=4, **QUICK)(program, context)
    widths = widths_of(program)
    assert re.fullmatch(
        r"widths within 4 bits on average: [\d.]+ bits on average; no others are better by the sum of what each costs alone",
        context.notes[0],
    )
    assert re.fullmatch(r"the sum foretells noise of -[\d.]+ dB of the output, all together made noise of -[\d.]+ dB", context.notes[1])
    for name, bits in widths.items():
        codes = math.ceil(read(program, name).numel() * bits / 8)
        [line] = [note for note in context.notes if note.startswith(f"{name} at ")]
        assert re.match(rf"{re.escape(name)} at {bits} bits \(noise of -[\d.]+ dB; {codes:,} bytes\), reads \w+ at 8 bits \(noise", line)
    assert [note for note in context.notes if note.startswith("no layer reads conv2d_2 at 8 bits")]
    assert re.fullmatch(r"in the end the output has noise of -[\d.]+ dB", context.notes[-1])


def test_by_curvature_the_journal_speaks_of_nats(program, context):
    Mixed(average_bits=4, sensitivity="curvature", **QUICK)(program, context)
    assert re.search(r"foretells a divergence of [\de.-]+ nats of the output, all together made a divergence of", context.notes[1])
    assert re.fullmatch(r"in the end the output has a divergence of [\de.-]+ nats", context.notes[-1])


def test_the_exported_file_runs_in_integers_and_agrees(program, context, tmp_path):
    Mixed(mac_bits=20, activation_bits=(4, 6, 8), **QUICK)(program, context)
    file = onnxruntime.export(program, context.example(64), tmp_path / "file.onnx")
    assert file.kernels["QLinearConv"] == 4
    assert file.difference < 0.05


def test_what_a_runtime_must_execute_is_every_width_that_may_be_chosen():
    assert Mixed(weight_bits=(4, 2), activation_bits=(8, 6), mac_bits=16).forms == {"int2", "int4", "uint6", "uint8"}


def test_fewer_calibration_inputs_than_examples_are_enough(program, context):
    few = replace(context, splits=replace(context.splits, calibration=context.splits.calibration.take(slice(0, 5))))
    Mixed(rounding="nearest")(program, few)
    assert average(program) <= 4


# What cannot work


def test_a_budget_below_the_narrowest_says_the_least_possible(program, context):
    with pytest.raises(UnreachableError, match=r"no widths meet the budget of 2.5 bits .*: the least possible is 3 bits on average"):
        Mixed(average_bits=2.5, weight_bits=(3, 8))(program, context)
    with pytest.raises(UnreachableError, match=r"the least possible is [\d,]+ bytes, weights at 2 bits and activations at 8"):
        Mixed(bytes=100)(program, context)
    with pytest.raises(UnreachableError, match=r"the least possible is 9 weight bits x activation bits"):
        Mixed(mac_bits=8, weight_bits=(3, 8), activation_bits=(3, 8))(program, context)


@pytest.mark.parametrize("settings", [{"average_bits": 8}, {"bytes": 10**6}, {"average_bits": 5, "weight_bits": (2, 4)}])
def test_a_budget_that_the_widest_meet_leaves_nothing_to_choose(program, context, settings):
    with pytest.raises(LaconicError, match=r"leaves nothing to choose: weights at \d bits and activations at 8 need"):
        Mixed(**settings)(program, context)


def test_budgets_are_checked_before_anything_is_measured(program, context, monkeypatch):
    monkeypatch.setattr("laconic.quantize.mixed.histograms_of", lambda *_: pytest.fail("measured"))
    with pytest.raises(UnreachableError):
        Mixed(bytes=100)(program, context)


REFUSED = {
    "average_bits and bytes": {"average_bits": 4, "bytes": 1000},
    "bytes and mac_bits": {"bytes": 1000, "mac_bits": 16},
    "activations take no bytes": {"average_bits": 4, "activation_bits": (4, 8)},
    "nothing to choose": {"weight_bits": (4,)},
    "greater than or equal to 2": {"weight_bits": (1, 4)},
    "less than or equal to 8": {"activation_bits": (9,)},
    "at least 1 item": {"weight_bits": ()},
    "mac_bits": {"mac_bits": 65},
    "bytes": {"bytes": 0},
    "examples": {"examples": 0},
    "sensitivity": {"sensitivity": "entropy"},
}


@pytest.mark.parametrize("said", REFUSED)
def test_settings_that_cannot_work_are_refused(said):
    with pytest.raises(ValueError, match=said):
        Mixed(**REFUSED[said])


def test_widths_to_choose_from_are_a_set():
    assert Mixed(weight_bits=(8, 4, 4)).weight_bits == (4, 8)
    assert Budget(3, lambda *_: 1, str).said(5) == "5"
