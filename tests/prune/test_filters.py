"""Filters, and what it shares with Heads: targets, patterns, rounds, training, errors before anything is cut."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from laconic.context import Context
from laconic.contract import fingerprint
from laconic.data import Split, Splits
from laconic.errors import LaconicError, NotApplicableError
from laconic.measure import macs
from laconic.program import Mask, Uniform, capture, clone, packed_bytes, read, weights
from laconic.program.cut import slices
from laconic.program.groups import channel_groups
from laconic.program.layers import layers
from laconic.program.represent import representations, represented
from laconic.prune import Filters, Magnitude
from laconic.prune.ranking import Importance
from laconic.quantize import Static
from laconic.recipe import apply
from laconic.train import Training, loop, top1
from networks import captured

BRIEF = Training(epochs=2, batch=32, learning_rate=0.02, autocast="off")


def channels(program):
    """Return the number of channels of each group by the layer that makes them first."""
    return {group.name.removesuffix(".weight[0]"): group.channels for group in channel_groups(program)}


WHOLE = {"stem": 8, "left": 8, "down": 16}


def test_the_network_of_these_tests_has_three_groups(program):
    assert channels(program) == WHOLE


# Targets


def test_a_ratio_of_each_group_takes_it_from_each(program, context):
    assert channels(Filters(ratio=0.5, scope="group")(program, context)) == {"stem": 4, "left": 4, "down": 8}


def test_a_ratio_of_all_takes_it_from_all_together(program, context):
    left = channels(Filters(ratio=0.25)(program, context))
    assert sum(left.values()) == 24
    assert set(left.values()) != {6, 12}, "not from each alike"


def test_half_is_the_default(program, context):
    assert sum(channels(Filters()(program, context)).values()) == 16


@pytest.mark.parametrize("share", [0.8, 0.5])
def test_a_share_of_the_work_or_the_bytes_stays(program, context, share):
    example = context.example()
    small = Filters(macs=share)(clone(program), context)
    assert macs(small, example) / macs(program, example) == pytest.approx(share, rel=0.06)
    small = Filters(bytes=share)(clone(program), context)
    assert packed_bytes(small) / packed_bytes(program) == pytest.approx(share, rel=0.06)


def clock(example, seen):
    """A runtime on which half of the time goes with the work and half does not."""

    def latency(whole, small):
        seen.append(macs(small, example))
        return 0.5 + 0.5 * macs(small, example) / macs(whole, example)

    return latency


def test_a_share_of_the_measured_time_stays(program, make_context):
    seen = []
    context = make_context(latency=clock(make_context().example(), seen))
    small = Filters(latency=0.75)(clone(program), context)
    assert context.latency(program, small) == pytest.approx(0.75, rel=0.05)
    assert len(seen) - 1 <= 8
    assert any("0.7" in note and "of the latency" in note for note in context.notes)


def test_a_time_that_cannot_be_reached_is_told_with_the_least_that_was_seen(program, make_context):
    before = fingerprint(program)
    context = make_context(latency=clock(make_context().example(), []))
    with pytest.raises(LaconicError, match=r"latency=0.3 cannot be reached: 0\.5\d\d of the time was the least"):
        Filters(latency=0.3)(program, context)
    assert fingerprint(program) == before


def test_a_time_needs_something_to_measure_it(program, context):
    before = fingerprint(program)
    with pytest.raises(LaconicError, match=r"needs a runtime to measure on"):
        Filters(latency=0.5)(program, context)
    assert fingerprint(program) == before


def test_multiples_and_floors_hold(program, context):
    assert all(count % 4 == 0 for count in channels(Filters(ratio=0.4, multiple_of=4)(clone(program), context)).values())
    left = channels(Filters(macs=0.4, floor=0.5)(clone(program), context))
    assert all(left[name] >= 0.5 * count for name, count in WHOLE.items())


def test_only_exact_groups_where_asked(context_of):
    program, context = captured("norms")[0], context_of("norms")
    assert not all(group.exact for group in channel_groups(program))
    with pytest.raises(NotApplicableError, match="no filter to prune"):
        Filters(exact=True)(program, context)
    Filters(scope="group")(program, context)


# What is left


@pytest.mark.parametrize("name", get_args(Importance))
def test_every_criterion_prunes_and_the_network_keeps_to_its_contract(name, program, context):
    [entry] = apply(program, [Filters(ratio=0.25, importance=name)], context).journal
    assert entry.macs_after < 0.9 * entry.macs_before
    assert entry.bytes_after < 0.9 * entry.bytes_before


def test_the_default_beats_chance_without_recovery_by_far(program, context):
    scores = []
    for step in (Filters(ratio=0.3), Filters(ratio=0.3, importance="random", recovery="none")):
        scores.append(top1(step(clone(program), context), context.splits.test))
    assert scores[0] > 0.9
    assert scores[0] > scores[1] + 0.1


def test_the_journal_has_every_group_and_what_was_fitted(program, context):
    Filters(ratio=0.5, scope="group")(program, context)
    assert context.notes == [
        "stem.weight[0]: 8 -> 4",
        "left.weight[0]: 8 -> 4",
        "down.weight[0]: 16 -> 8",
        "least squares on calibration data: left.weight, right.weight, down.weight, head.weight",
    ]


def test_rounds_reach_the_target_that_one_does_and_train_after_each(program, make_context, monkeypatch):
    trained, fit = [], Context.fit

    def counted(self, model, *more, **named):
        trained.append(macs(model, self.example()))
        return fit(self, model, *more, **named)

    monkeypatch.setattr(Context, "fit", counted)
    context = make_context(teacher=clone(program))
    small = Filters(macs=0.4, rounds=2, training=BRIEF)(clone(program), context)
    whole = macs(program, context.example())
    assert [each / whole for each in trained] == pytest.approx([0.4**0.5, 0.4], rel=0.12)
    assert macs(small, context.example()) == trained[-1]
    assert top1(small, context.splits.test) > 0.9


def test_the_floor_is_of_the_network_as_it_came_whatever_the_rounds(program, context):
    left = channels(Filters(ratio=0.5, floor=0.5, rounds=3, importance="l1")(program, context))
    assert all(left[name] >= 0.5 * count for name, count in WHOLE.items())


def test_rounds_take_the_ratio_from_each_group_that_one_does(program, context):
    small = Filters(ratio=0.5, scope="group", rounds=3, importance="l2")(program, context)
    assert channels(small) == {"stem": 4, "left": 4, "down": 8}


def test_training_continues_from_where_recovery_ends_and_does_not_train_frozen_parameters(program, context):
    program.get_parameter("stem_norm.bias").requires_grad_(False)
    Filters(ratio=0.25, training=BRIEF)(program, context)
    assert not program.get_parameter("stem_norm.bias").requires_grad
    assert not program.training


# Shrinking


def test_doomed_channels_fade_and_are_cut_half_way(program, make_context, monkeypatch):
    seen, shorten = [], loop.state.shorten
    norms = {layer: read(program, f"{layer}.weight").detach().flatten(1).norm(dim=1) for layer in WHOLE}

    def spying(work, run, keep):
        now = {layer: read(program, f"{layer}.weight").detach().flatten(1).norm(dim=1) for layer in WHOLE}
        seen.append((run.done, work.total, {name: list(kept) for name, kept in keep.items()}, now))
        shorten(work, run, keep)

    monkeypatch.setattr(loop.state, "shorten", spying)
    step = Filters(ratio=0.5, scope="group", shrink=0.3, training=replace(BRIEF, epochs=4))
    expected = Filters(ratio=0.5, scope="group")(clone(program), make_context())
    small = step(program, make_context(teacher=clone(program)))
    [(done, total, keep, now)] = seen
    assert (done, total) == (total // 2, 4 * -(-len(make_context().splits.train) // 32))
    assert channels(small) == channels(expected) == {"stem": 4, "left": 4, "down": 8}
    for layer in WHOLE:
        kept = keep[f"{layer}.weight[0]"]
        doomed = [channel for channel in range(WHOLE[layer]) if channel not in kept]
        assert (now[layer][doomed] / norms[layer][doomed]).max() < 0.4
        assert (now[layer][kept] / norms[layer][kept]).min() > 0.6
    assert top1(small, make_context().splits.test) > 0.9


@pytest.mark.parametrize("settings", [{"shrink": 0.1}, {"shrink": 0.1, "rounds": 2, "training": BRIEF}])
def test_shrinking_needs_one_training(settings):
    with pytest.raises(ValueError, match="shrink cuts within one training"):
        Filters(**settings)


# Patterns


def test_layers_whose_outputs_are_excluded_stay_whole(program, context):
    left = channels(Filters(ratio=0.3, exclude=("left",))(program, context))
    assert left["left"] == 8
    assert sum(left.values()) < 32


def test_excluding_one_of_several_layers_that_make_a_group_keeps_it(program, context):
    """The residual sum is made by the stem and by `right`."""
    assert channels(Filters(ratio=0.3, exclude=("right",))(program, context))["stem"] == 8


def test_only_layers_whose_outputs_are_included_are_cut(program, context):
    left = channels(Filters(ratio=0.5, include=("down*",))(program, context))
    assert left == {"stem": 8, "left": 8, "down": 8}


def test_a_layer_that_only_reads_a_group_does_not_speak_for_it(program, context):
    left = channels(Filters(ratio=0.5, scope="group", exclude=("head",))(program, context))
    assert left == {"stem": 4, "left": 4, "down": 8}


# What cannot be


def whole_after(program, context, step, error, match):
    before = fingerprint(program)
    with pytest.raises(error, match=match):
        step(program, context)
    assert fingerprint(program) == before


@pytest.mark.parametrize("settings", [{"exclude": ("nothing",)}, {"include": ("stem", "nothing*")}])
def test_a_pattern_that_matches_nothing_is_told(settings, program, context):
    whole_after(program, context, Filters(**settings), LaconicError, "unknown layer pattern 'nothing")


def test_patterns_that_leave_no_group_are_told(program, context):
    whole_after(program, context, Filters(include=("head",)), LaconicError, r"no group of filters is left after include=\('head',\)")


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        Filters(ratio=ratio)


@pytest.mark.parametrize("settings", [{"ratio": 0.5, "macs": 0.5}, {"macs": 0.5, "bytes": 0.5}, {"ratio": 0.1, "latency": 0.5}])
def test_two_targets_at_once_are_refused(settings):
    with pytest.raises(ValueError, match=f"give one of ratio, macs, bytes and latency, not {' and '.join(settings)}"):
        Filters(**settings)


@pytest.mark.parametrize("unit", ["macs", "bytes", "latency"])
def test_a_cost_is_not_taken_from_each_group(unit):
    with pytest.raises(ValueError, match=f"with {unit} the groups are ranked together"):
        Filters(scope="group", **{unit: 0.5})


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_ratio_that_would_leave_nothing_of_a_group_is_told(rounds, program, context):
    step = Filters(ratio=0.9, scope="group", rounds=rounds)
    whole_after(program, context, step, LaconicError, r"nothing would be left of stem.weight\[0\] \(8 channels\), left")


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("unit", ["macs", "bytes"])
def test_a_target_out_of_reach_is_told_with_the_least(unit, rounds, program, context):
    step = Filters(floor=0.5, rounds=rounds, **{unit: 0.2})
    whole_after(program, context, step, LaconicError, rf"{unit}=0.2 cannot be reached: 0\.\d+ of the {unit} is the least")


def test_calibration_data_of_another_shape_is_told(program):
    part = Split(np.zeros((4, 1, 9, 9), np.float32), np.zeros(4, int))
    context = Context(Splits(part, part, part, part))
    whole_after(program, context, Filters(), LaconicError, r"takes inputs of shape \(1, 8, 8\) .*, the calibration data has \(1, 9, 9\)")


def test_two_inputs_are_told(context_of):
    program, context = captured("two-inputs")[0], context_of("two-inputs")
    whole_after(program, context, Filters(), LaconicError, r"shape \(4,\) .*, \(3,\) .*, the calibration data has \(4,\)")


def test_a_network_with_nothing_to_cut_says_what_froze_it(context_of):
    program, context = captured("buffers")[0], context_of("buffers")
    reasons = r"no filter to prune.*aten.index.Tensor at .*networks.py:\d+.*; the network's output"
    whole_after(program, context, Filters(), NotApplicableError, reasons)


@pytest.mark.parametrize("settings", [{}, {"shrink": 0.1}, {"rounds": 2}])
def test_training_without_training_data_is_told(settings, program, untrained_context):
    context = replace(untrained_context, teacher=clone(program))
    whole_after(program, context, Filters(training=BRIEF, **settings), LaconicError, "no training split")


def test_whether_it_trains_is_known_beforehand():
    assert Filters(training=BRIEF).trains
    assert not Filters().trains


# After other steps


def test_a_mask_is_cut_with_its_weight_and_what_it_holds_is_not_fitted(program, context):
    done = apply(program, [Magnitude(sparsity=0.5, include=("down", "left"))], context).program
    before = {name: representations(done, name)[0].keep for name, _ in represented(done)}
    whole = clone(done)
    step = Filters(ratio=0.5, scope="group", importance="l2")
    keep = {}
    for group in channel_groups(whole):
        order = step_scores(whole, group)
        keep[group.name] = sorted(order.argsort(descending=True)[: group.channels // 2].tolist())
    small = apply(done, [step], context).program
    for name, mask in before.items():
        for each in slices(whole, keep)[f"{name.removesuffix('weight')}parametrizations.weight.original"]:
            mask = each.of(mask)
        [form] = representations(small, name)
        assert torch.equal(form.keep, mask)
        assert not read(small, name)[~mask].any()
    assert {layer.weight for layer in layers(small)} == {"stem.weight", "right.weight", "head.weight"}


def step_scores(program, group):
    """Return the Euclidean norm of every channel over all weights of the group, written out."""
    total = torch.zeros(group.channels)
    for slot in group.slots:
        value = read(program, slot.tensor).detach()
        if value.ndim > 1:
            for position, channel in enumerate(slot.channel):
                total[channel] += value.select(slot.axis, position).square().sum()
    return total


@pytest.mark.parametrize("importance", ["obs", "fisher", "l1"])
def test_a_quantized_network_is_cut_with_its_grids(importance, program, context):
    done = apply(program, [Static(), Filters(ratio=0.3, importance=importance)], context)
    assert done.journal[1].bytes_after < 0.8 * done.journal[1].bytes_before
    for weight in weights(done.program):
        [grid] = [form for form in representations(done.program, weight.name) if isinstance(form, Uniform)]
        assert grid.scale.shape == (len(weight.value),)
        codes = weight.value / grid.step.detach().reshape(-1, *[1] * (weight.value.ndim - 1))
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)


def test_a_network_of_masked_weights_without_biases_is_ranked_too(random_context):
    """No tensor of it is stored as it is."""
    program = capture(nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 5, bias=False)), (torch.randn(2, 6),))
    context = random_context((torch.randn(2, 6),))
    done = apply(program, [Magnitude(sparsity=0.3), Filters(ratio=0.5)], context).program
    assert read(done, "0.weight").shape == (4, 6)
    assert all(isinstance(form, Mask) for _, forms in represented(done) for form in forms)
