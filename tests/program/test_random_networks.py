"""What holds for the groups and the cuts of every network, on random ones.

In CI the examples are the same each time. `LACONIC_HYPOTHESIS=2000 pytest tests/program/test_random_networks.py` draws so many new ones for
every property; a failing one is shrunk and printed as Python that makes it again.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import example as also
from hypothesis import strategies as st

from laconic.program import capture, clone, cost, load, save
from laconic.program.cut import cut, symbols
from laconic.program.groups import find
from laconic.program.zero import zero
from random_networks import Description, Step, build, descriptions, example

_EXAMPLES = os.environ.get("LACONIC_HYPOTHESIS")
_patterns = st.lists(st.lists(st.booleans(), max_size=5).map(tuple), min_size=1, max_size=4).map(tuple)
_PRODUCTS_OF_CHANNELS_WITH_THEMSELVES = Description(
    (6, 8),
    0,
    (
        Step("linear", (0,), {"out": 4, "bias": True}),
        Step("transpose", (1,), {"first": 1, "second": 2}),
        Step("scores", (2, 2), {"way": "transpose"}),
        Step("activation", (3,), {"kind": "Sigmoid"}),
    ),
    head="flatten",
)


def on_random_networks(**drawn):
    """Run a test on random networks, and on whatever else is to be drawn."""

    def decorate(test):
        return settings(
            max_examples=int(_EXAMPLES or 10),
            derandomize=not _EXAMPLES,
            deadline=None,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        )(given(network=descriptions(), **drawn)(test))

    return decorate


def captured(network):
    return capture(build(network), example(network))


def kept(groups, patterns):
    """Return the channels that stay: each group follows one of the patterns, over and over; it stays whole where that leaves nothing."""
    keep = {}
    for number, group in enumerate(groups):
        pattern = patterns[number % len(patterns)] or (True,)
        channels = [channel for channel in range(group.channels) if pattern[channel % len(pattern)]]
        if 0 < len(channels) < group.channels:
            keep[group.name] = channels
    return keep


def outputs(program, network):
    """Return what a program computes for a batch that it was not captured with."""
    results = program(*example(network, batch=3))
    return results if isinstance(results, tuple) else (results,)


def places(group):
    """Return where a group lives, as plain data: tensor, axis, and the channel of every position."""
    return frozenset((slot.tensor, slot.axis, tuple(slot.channel.tolist())) for slot in group.slots)


def places_after(groups, keep):
    """Return where each group, by name, will live after a cut: the positions that stay, and the channels that stay, numbered anew."""
    number = {group.name: np.full(group.channels + 1, -1) for group in groups}  # its last entry is for positions of no channel
    stays = {}
    for group in groups:
        chosen = keep.get(group.name, range(group.channels))
        number[group.name][chosen] = np.arange(len(chosen))
        for slot in group.slots:
            place = slot.tensor, slot.axis
            stays[place] = stays.get(place, True) & ((slot.channel < 0) | (number[group.name][slot.channel] >= 0))
    return {
        group.name: frozenset(
            (slot.tensor, slot.axis, tuple(number[group.name][slot.channel[stays[slot.tensor, slot.axis]]].tolist()))
            for slot in group.slots
        )
        for group in groups
    }


def trained(program, network):
    """Return the names of the parameters that get a gradient in train mode, where results must be finite."""
    program.train()
    results = outputs(program, network)
    assert all(torch.isfinite(result).all() for result in results)
    sum(result.square().sum() for result in results).backward()
    return {name for name, parameter in program.named_parameters() if parameter.grad is not None}


def assert_close(ours, theirs):
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-9, atol=1e-9 * max(1.0, their.abs().max().item()))


def assert_same_state(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def assert_trains_like(small, program, network):
    """Check that a cut program runs as the whole one does, and that whatever trained trains."""
    for ours, theirs in zip(outputs(small, network), outputs(program, network), strict=True):
        assert ours.shape == theirs.shape
        assert torch.isfinite(ours).all()
    assert trained(small, network) == trained(program, network)


@also(network=_PRODUCTS_OF_CHANNELS_WITH_THEMSELVES, patterns=((False, True),))
@on_random_networks(patterns=_patterns)
def test_cutting_exact_groups_computes_what_zeroing_them_would(network, patterns):
    program = captured(network)
    keep = kept([group for group in find(program).groups if group.exact], patterns)
    with torch.no_grad():
        assert_close(outputs(cut(clone(program), keep), network), outputs(zero(program, keep), network))


@on_random_networks(patterns=_patterns)
def test_groups_after_a_cut_are_those_before_without_the_channels(network, patterns):
    program = captured(network)
    groups = find(program).groups
    keep = kept(groups, patterns)
    foretold = places_after(groups, keep)
    found = {places(group) for group in find(cut(program, keep)).groups}
    for group in groups:
        if len(keep.get(group.name, range(group.channels))) > 1:
            assert foretold[group.name] in found, group.name


@on_random_networks(patterns=_patterns, more=_patterns)
def test_cutting_twice_is_cutting_once(network, patterns, more):
    program = captured(network)
    groups = find(program).groups
    first = kept(groups, patterns)
    foretold = places_after(groups, first)
    twice = cut(clone(program), first)
    left = find(twice).groups
    second = kept(left, more)
    names = {places(group): group.name for group in left}
    at_once = {
        group.name: np.array(first.get(group.name, range(group.channels)))[second.get(names.get(foretold[group.name]), slice(None))]
        for group in groups
    }
    known = {names[place] for place in foretold.values() if place in names}
    cut(twice, {name: channels for name, channels in second.items() if name in known})
    once = cut(program, at_once)
    assert_same_state(twice, once)
    with torch.no_grad():
        assert_close(outputs(once, network), outputs(twice, network))


@on_random_networks(patterns=_patterns)
def test_saving_and_loading_keep_outputs_and_groups(network, patterns):
    program = captured(network)
    cut(program, kept(find(program).groups, patterns))
    with TemporaryDirectory() as folder:
        save(program, Path(folder) / "program.safetensors")
        loaded = load(Path(folder) / "program.safetensors")
    assert_same_state(loaded, program)
    with torch.no_grad():
        assert_close(outputs(loaded, network), outputs(program, network))
    known = [[(group.name, places(group), group.exact, group.heads) for group in find(each).groups] for each in (loaded, program)]
    assert known[0] == known[1]


@on_random_networks(patterns=_patterns)
def test_whatever_is_cut_runs_and_whatever_trained_trains(network, patterns):
    program = captured(network)
    small = cut(clone(program), kept(find(program).groups, patterns))
    assert_trains_like(small, program, network)


@on_random_networks()
def test_a_network_of_single_channels_runs_and_trains(network):
    program = captured(network)
    small = cut(clone(program), {group.name: [group.channels - 1] for group in find(program).groups})
    assert_trains_like(small, program, network)


@on_random_networks(patterns=_patterns)
def test_the_work_after_a_cut_is_foretold(network, patterns):
    program = captured(network)
    found = find(program)
    keep = kept(found.groups, patterns)
    foretold = sum(cost.macs(found.walk, symbols(found, keep)).values())
    assert foretold == sum(cost.macs(find(cut(program, keep)).walk).values())
