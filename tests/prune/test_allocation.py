"""Zeros by sensitivity: the least noise against all allocations, the exact total, and what is measured."""

from itertools import product

import numpy as np
import pytest
import torch

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.errors import LaconicError
from laconic.program import clone, read, weights
from laconic.program.noise import relative_error
from laconic.prune import Magnitude, SparseGPT, Wanda
from laconic.prune import allocation as module
from laconic.prune.allocation import of_least_noise
from laconic.prune.magnitude import smallest
from laconic.recipe import apply
from networks import captured

ENTRIES = {"a": 40, "b": 100, "c": 17}


@pytest.mark.parametrize("total", [30, 61, 100, 120])
def test_no_other_counts_of_so_many_zeros_make_less_noise(total):
    noises = {
        name: {int(share * number): float(torch.rand(())) + share**3 for share in (0.0, 0.3, 0.5, 0.7, 0.9)}
        for name, number in ENTRIES.items()
    }
    found = of_least_noise(ENTRIES, noises, total)
    assert sum(found.values()) == total

    def noise_of_the_next(name):
        """Of the counts measured, the least with at least so many zeros: no less noise than the weight will have."""
        return min(noise for count, noise in noises[name].items() if count >= found[name])

    best = min(
        sum(noise for _, noise in choice)
        for choice in product(*(noises[name].items() for name in ENTRIES))
        if sum(count for count, _ in choice) >= total
    )
    assert sum(map(noise_of_the_next, ENTRIES)) == pytest.approx(best)


def test_zeros_that_are_over_go_back_to_the_weight_that_gains_most_by_them():
    noises = {"a": {0: 0.0, 20: 0.2}, "b": {0: 0.0, 50: 5.0}, "c": {0: 0.0, 10: 0.0}}
    assert of_least_noise(ENTRIES, noises, 55) == {"a": 0, "b": 45, "c": 10}


def test_more_zeros_than_the_largest_counts_give_are_not_to_be_had():
    assert of_least_noise(ENTRIES, {name: {0: 0.0, 10: 1.0} for name in ENTRIES}, 31) is None


@pytest.mark.parametrize("step", [Magnitude, SparseGPT, Wanda])
@pytest.mark.parametrize("sparsity", [0.3, 0.77])
def test_all_layers_together_have_exactly_the_share_and_none_is_emptied(step, sparsity, program, context):
    step(sparsity=sparsity, allocation="sensitivity")(program, context)
    values = [weight.value for weight in weights(program)]
    assert sum(int((value == 0).sum()) for value in values) == int(sparsity * sum(value.numel() for value in values) + 1e-9)
    assert all(value.any() for value in values)
    assert len({round(float((value == 0).float().mean()), 2) for value in values}) > 1


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # torch.export's, of recurrent layers
@pytest.mark.parametrize("kind", ["tied", "lstm", "transformer", "grouped", "one-dimensional"])
def test_weights_of_every_kind_of_reader_are_measured(kind):
    program, (example, *_) = captured(kind)
    part = Split(torch.cat([example] * 4).numpy(), np.zeros(4 * len(example), np.int64))
    context = Context(Splits(part, part, part, part))
    Magnitude(sparsity=0.5, allocation="sensitivity")(program, context)
    values = [weight.value for weight in weights(program)]
    assert sum(int((value == 0).sum()) for value in values) == sum(value.numel() for value in values) // 2
    assert all(" dB at " in note for note in context.notes if " gets " in note)


def distance(program, whole, context):
    inputs, _ = context.splits.validation.batch(slice(None))
    with torch.no_grad():
        return relative_error(program.eval()(inputs), whole.eval()(inputs))


@pytest.mark.parametrize("step", [Magnitude, SparseGPT])
def test_outputs_on_other_images_are_nearer_than_with_the_same_share_everywhere(step, program, context):
    uniform, allotted = (step(sparsity=0.6, allocation=each)(clone(program), context) for each in ("uniform", "sensitivity"))
    assert distance(allotted, program, context) < 0.9 * distance(uniform, program, context)


def test_the_journal_tells_what_pruning_a_layer_alone_does_to_the_output(program, context, monkeypatch):
    monkeypatch.setattr(module, "_EXAMPLES", 50)
    whole, head = clone(program).eval(), read(program, "head.weight").detach().clone()
    Magnitude(sparsity=0.5, allocation="sensitivity")(program, context)
    [line] = [note for note in context.notes if note.startswith("head.weight gets")]
    inputs = torch.cat(list(context.calibration()))[:50]
    alone = clone(whole)
    with torch.no_grad():
        read(alone, "head.weight")[smallest(head, 0.5)] = 0
        noise = relative_error(alone(inputs), whole(inputs))
    assert f"{10 * torch.tensor(noise).log10():.1f} dB at 50%" in line
    assert len([note for note in context.notes if " gets " in note]) == len(weights(program))


def test_what_is_pruned_already_counts(program, context):
    done = apply(program, [Magnitude(sparsity=0.5), SparseGPT(sparsity=0.7, allocation="sensitivity")], context).program
    values = [weight.value for weight in weights(done)]
    assert sum(int((value == 0).sum()) for value in values) == int(0.7 * sum(value.numel() for value in values) + 1e-9)
    with pytest.raises(LaconicError, match="not zero already"):
        SparseGPT(sparsity=0.6, allocation="sensitivity")(done, context)


@pytest.mark.parametrize("settings", [{"quality": 1.0}, {"scope": "global"}])
def test_magnitude_has_one_way_of_sharing_zeros_out(settings):
    with pytest.raises(ValueError, match="leave quality and scope out"):
        Magnitude(allocation="sensitivity", **settings)
