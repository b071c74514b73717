from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.errors import LaconicError, NotApplicableError
from laconic.pack.lossless import cost, exactly
from laconic.program import Mask, bake, capture, clone, dense_state, packed, read, represent, weights
from laconic.program.forms import kept, quantizer_of
from laconic.program.lower import unsupported
from laconic.program.represent import representations, represented
from laconic.prune import Magnitude
from laconic.recipe import not_kept
from laconic.runtimes import lac, onnxruntime
from laconic.share import KMeans
from laconic.share.importance import importance
from laconic.train import cross_entropy
from laconic.tune import FineTune
from networks import captured


def distinct(program, name):
    return len(read(program, name).unique())


def form(program, name):
    return quantizer_of(representations(program, name))


def linear(weight, classes=10):
    """A program of one linear layer with this weight, and a context of random data."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = weight
    generator = np.random.default_rng(0)
    part = Split(generator.normal(size=(40, weight.shape[1])).astype(np.float32), generator.integers(0, weight.shape[0], 40))
    return capture(layer, (torch.randn(2, weight.shape[1]),)), Context(Splits(part, part, part, part))


@pytest.mark.parametrize("codes", [2, 5, 16])
def test_each_weight_has_so_many_values_and_the_least_error_is_that_of_the_best_boundaries(codes, program, context):
    before = {weight.name: weight.value.clone() for weight in weights(program)}
    made = KMeans(codes=codes)(program, context)
    for name, value in before.items():
        view = read(made, name).detach()
        assert distinct(made, name) == codes
        for centroid in view.unique():
            torch.testing.assert_close(centroid, value[view == centroid].mean(), rtol=1e-4, atol=1e-6)
        levels = view.unique()
        assert torch.equal((value[..., None] - levels).abs().amin(-1), (value - view).abs()), "an entry has not the nearest value"


def test_packed_bytes_are_those_of_codes_and_centroids(program, context):
    [head] = [weight for weight in weights(program) if weight.name == "head.weight"]
    KMeans(codes=16, include="head")(program, context)
    assert packed(program, "head.weight").bytes == head.value.numel() // 2 + 16 * 4


def test_groups_of_channels_have_codebooks_of_their_own_and_less_error(program, context):
    value = read(program, "head.weight").detach().clone()
    errors = []
    for group_size in (10, 4):
        made = KMeans(codes=4, granularity="group", group_size=group_size, include="head")(clone(program), context)
        view = read(made, "head.weight").detach()
        for rows in view.split(group_size):
            assert len(rows.unique()) == 4
        errors.append(float((view - value).square().sum()))
    assert errors[1] < errors[0]


def test_zeros_of_a_mask_need_no_code_and_stay_zero_in_training(program, context):
    Magnitude(sparsity=0.6)(program, context)
    held = {weight.name: weight.value == 0 for weight in weights(program)}
    KMeans(codes=8, epochs=1)(program, context)
    FineTune(epochs=1, learning_rate=0.01, autocast="off")(program, context)
    for name, zeros in held.items():
        view = read(program, name)
        assert not view[zeros].any()
        assert len(view[~zeros].unique()) == 8 == form(program, name).base
        assert torch.equal(~kept(representations(program, name)), zeros)
        codes = int((~zeros).sum())
        assert packed(program, name).bytes == -(-codes * 3 // 8) + -(-zeros.numel() // 8) + 8 * 4


def test_zeros_without_a_mask_have_a_code_that_no_training_moves(program, context):
    [head] = [weight for weight in weights(program) if weight.name == "head.weight"]
    zeros = head.value.abs() < head.value.abs().median()
    with torch.no_grad():
        read(program, "head.weight")[zeros] = 0.0
    made = KMeans(codes=8, epochs=1, include="head")(program, context)
    assert torch.equal(read(made, "head.weight") == 0, zeros)
    assert distinct(made, "head.weight") == 8 == form(made, "head.weight").base


def test_a_mask_behind_it_composes(program, context):
    KMeans(codes=8)(program, context)
    represent(program, "head.weight", Mask(read(program, "head.weight").detach() > 0))
    assert (read(program, "head.weight") >= 0).all()
    assert packed(program, "head.weight").form == "Shared"


def test_training_moves_centroids_and_biases_but_no_code(program, context):
    made = KMeans(codes=3)(clone(program), context)
    trained = KMeans(codes=3, epochs=2)(program, context)
    for name, _ in represented(made):
        assert torch.equal(form(made, name).codes, form(trained, name).codes)
        assert not torch.equal(form(made, name).codebook, form(trained, name).codebook)
    assert not torch.equal(read(made, "head.bias"), read(trained, "head.bias"))
    inputs, labels = context.splits.validation.batch(slice(0, 300))
    with torch.no_grad():
        assert cross_entropy(trained, inputs, labels) < cross_entropy(made, inputs, labels)


def test_as_many_codes_as_values_lose_nothing():
    weight = torch.tensor([-2.0, 0.5, 3.0])[torch.arange(400) % 3].reshape(20, 20)
    program, context = linear(weight)
    made = KMeans(codes=64)(program, context)
    assert torch.equal(read(made, "weight"), weight)
    assert form(made, "weight").base == 3
    assert "3 codes" in context.notes[0]


def test_a_weight_with_one_value_is_left_as_it_is():
    program, context = linear(torch.full((20, 20), 0.5))
    with pytest.raises(NotApplicableError, match="make none of these weights smaller: weight"):
        KMeans()(program, context)


def test_layers_too_small_for_a_codebook_are_left_and_named(program, context):
    KMeans(codes=64)(program, context)
    assert form(program, "stem.weight") is None
    assert any("left as they are: stem.weight" in note for note in context.notes)
    assert form(program, "head.weight").base == 64


# By rate and distortion


@pytest.mark.parametrize("bits", [1.8, 2.5])
def test_a_budget_is_kept_and_beats_the_same_number_of_codes_everywhere(bits, program, context):
    values = {weight.name: weight.value.clone() for weight in weights(program)}
    made = KMeans(bits_per_weight=bits)(clone(program), context)
    spent, entries, error = rate_and_error(made, values)
    assert spent <= bits * entries
    for codes in (2, 4, 7):
        spent_even, _, error_even = rate_and_error(KMeans(codes=codes)(clone(program), context), values)
        if spent_even > bits * entries:
            break
        assert error <= error_even * (1 + 1e-6)


def rate_and_error(program, values):
    """Entropy of codes and bits of centroids, entries, and the squared error, from what the graph reads."""
    spent = entries = error = 0.0
    for name, value in values.items():
        view = read(program, name).detach()
        counts = view.unique(return_counts=True)[1].double()
        spent += float(-(counts * (counts / counts.sum()).log2()).sum()) + 32 * len(counts)
        entries += value.numel()
        error += float((view - value).double().square().sum())
    return spent, entries, error


def test_a_budget_below_two_codes_each_is_told(program, context):
    with pytest.raises(LaconicError, match=r"bits_per_weight=0.5 is too few: with two codes in each weight it takes \d"):
        KMeans(bits_per_weight=0.5)(program, context)


# Importance


def test_importance_is_the_mean_square_of_the_slopes_of_the_log_likelihood():
    """Of one linear layer and the softmax, the expectation over labels is p_i (1 - p_i) x_j^2."""
    program, _ = linear(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    inputs = torch.randn(1, 4, generator=torch.Generator().manual_seed(1)).repeat(1200, 1)
    [found] = importance(program, ["weight"], inputs, torch.Generator().manual_seed(0))
    chances = program(inputs[:1]).softmax(-1)[0].detach()
    expected = (chances * (1 - chances))[:, None] * inputs[0].square()
    torch.testing.assert_close(found, (expected + 0.01 * expected.mean()).double(), rtol=0.15, atol=1e-3)


def test_weighed_by_importance_what_matters_is_nearer(program, context):
    value = read(program, "head.weight").detach().clone()
    inputs = torch.cat(list(context.calibration()))
    [matters] = importance(program, ["head.weight"], inputs, context.generator())
    errors = []
    for which in ("none", "fisher"):
        made = KMeans(codes=4, importance=which, include="head")(clone(program), context)
        errors.append(float((matters * (read(made, "head.weight").detach() - value).square()).sum()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("kind", ["no-grad", "two-outputs", "lstm"])
def test_importance_is_had_of_networks_of_other_kinds(kind):
    program, [example] = captured(kind)
    names = [weight.name for weight in weights(program)]
    before = {name: tensor.clone() for name, tensor in program.state_dict().items()}
    for found, name in zip(importance(program, names, example, torch.Generator().manual_seed(0)), names, strict=True):
        assert found.shape == read(program, name).shape
        assert (found > 0).all()
        assert found.isfinite().all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in program.state_dict().items())
    assert all(parameter.grad is None for parameter in program.parameters())


def test_importance_of_outputs_that_are_vectors_is_refused(program, context):
    vectors = replace(context.splits.validation, labels=np.zeros((len(context.splits.validation), 10), np.float32))
    with pytest.raises(NotApplicableError, match="score classes, not vectors"):
        KMeans(importance="fisher")(program, replace(context, splits=replace(context.splits, validation=vectors)))


# Errors, runtimes, files


def test_what_is_quantized_already_is_refused_before_any_work(program, context):
    KMeans(include="head")(program, context)
    with pytest.raises(NotApplicableError, match=r"quantized already: head.weight \(shared\)"):
        KMeans()(program, context)
    KMeans(exclude="head")(program, context)
    assert {name for name, _ in represented(program)} == {weight.name for weight in weights(program)}


def test_weights_that_are_not_numbers_are_named():
    weight = torch.randn(20, 20)
    weight[3, 3] = torch.nan
    program, context = linear(weight)
    with pytest.raises(LaconicError, match="NaN or infinite numbers: weight"):
        KMeans()(program, context)


def test_training_without_training_data_is_refused_before_any_work(program, untrained_context):
    with pytest.raises(LaconicError, match="no training split"):
        KMeans(epochs=1)(program, untrained_context)
    assert not list(represented(program))
    assert not KMeans().trains
    assert KMeans(epochs=1).trains


@pytest.mark.parametrize("settings", [{"codes": 1}, {"codes": 8, "bits_per_weight": 3}, {"epochs": -1}, {"granularity": "channel"}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValidationError):
        KMeans(**settings)


def test_runtimes_hold_it_dense_and_it_is_said_beforehand(program, context):
    assert not_kept([KMeans()], onnxruntime.KEEPS) == ["share.KMeans: shared weights"]
    assert not_kept([KMeans()], lac.KEEPS, program) == []
    KMeans(include="head")(program, context)
    assert unsupported(program, onnxruntime.KEEPS) == ("head.weight: shared weights",)


def test_the_lossless_file_finds_the_codebook_by_itself(program, context):
    KMeans(codes=16, include="left")(program, context)
    claimed = packed(program, "left.weight").bytes
    bake(program, "left.weight")
    done = exactly(dense_state(program)["left.weight"].numpy())
    assert done.form == "table"
    assert cost(done) < claimed + 32  # what a file has beside


def test_replacing_one_setting_checks_the_rest():
    with pytest.raises(ValidationError):
        replace(KMeans(codes=4), bits_per_weight=2.0)
