import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.errors import LaconicError, UnreachableError
from laconic.program import capture, clone, weights
from laconic.program.represent import represented
from laconic.quantize import Mixed
from laconic.quantize.in_time import Timed, float_in_time

LAYERS = [
    Timed("a", 5.0, 2.0, 0.9),
    Timed("b", 4.0, 1.0, 0.5),
    Timed("c", 3.0, 1.0, 0.7),
    Timed("d", 1.0, 1.5, 0.1),
    Timed("e", 7.0, 1.0, 0.2),
]
TOTAL = sum(layer.whole for layer in LAYERS)


def by_sum(whole):
    """The share of the time that the layers' own times foretell."""
    return sum(layer.whole if layer.name in whole else layer.integer for layer in LAYERS) / TOTAL


def loss(whole):
    return sum(layer.loss for layer in LAYERS if layer.name not in whole)


@pytest.mark.parametrize("share", [0.35, 0.45, 0.6, 0.8])
def test_where_times_add_up_no_choice_within_the_time_loses_much_less(share):
    found = float_in_time(LAYERS, share, by_sum)
    names = [layer.name for layer in LAYERS]
    subsets = [subset for count in range(6) for subset in itertools.combinations(names, count)]
    best = min(loss(subset) for subset in subsets if by_sum(subset) <= share)
    assert found.share == by_sum(found.layers) <= share
    assert loss(found.layers) <= best + 0.2  # halving the sum ends within a 64th of its range


def test_what_conversions_cost_is_measured_and_kept_within_the_share():
    def measured(whole):
        return by_sum(whole) + 0.06 * len(whole)

    found = float_in_time(LAYERS, 0.7, measured)
    assert found.layers
    assert found.share == measured(found.layers) <= 0.7


def test_a_layer_that_is_faster_in_float_stays_float_first():
    assert "d" in float_in_time(LAYERS, 0.4, by_sum).layers


def test_a_latency_that_integers_do_not_reach_is_refused():
    with pytest.raises(UnreachableError, match=r"latency=0.2 cannot be reached: with all layers in integers it is 0.325"):
        float_in_time(LAYERS, 0.2, by_sum)


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return capture(nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)), (torch.randn(2, 6),))


@pytest.fixture
def context():
    """Every layer takes 4 in float and 1 in integers."""

    def units(program):
        integers = dict(represented(program))
        return {weight.name.removesuffix(".weight"): 1.0 if weight.name in integers else 4.0 for weight in weights(program)}

    part = Split(np.random.default_rng(1).normal(size=(64, 6)).astype(np.float32), np.zeros(64, np.int64))
    return replace(
        Context(Splits(part, part, part, part)),
        layer_seconds=units,
        latency=lambda before, after: sum(units(after).values()) / sum(units(before).values()),
    )


@pytest.mark.parametrize(("share", "in_float"), [(0.25, 0), (0.5, 1), (0.8, 2)])
def test_mixed_leaves_as_many_layers_in_float_as_the_latency_allows(program, context, share, in_float):

    found = Mixed(latency=share, rounding="nearest", examples=16)(clone(program), context)
    assert len(weights(found)) - len(list(represented(found))) == in_float
    assert "of the float network's time as measured while choosing" in " ".join(context.notes)


def test_without_a_runtime_to_measure_on_a_latency_is_refused(program, context):

    with pytest.raises(LaconicError, match="needs a runtime to measure on"):
        Mixed(latency=0.5)(clone(program), replace(context, latency=None))
