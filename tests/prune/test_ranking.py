"""What taking channels costs, against the error that is really left when the layers behind them are fitted anew."""

import copy
from typing import get_args

import pytest
import torch
from torch import nn

from laconic.errors import NotApplicableError
from laconic.numeric.moments import Moments
from laconic.program import capture, clone, read
from laconic.program.groups import find
from laconic.program.layers import layers
from laconic.program.observe import observe
from laconic.program.zero import zero
from laconic.prune.evidence import output_sensitivity
from laconic.prune.ranking import Importance, ranking
from networks import captured


def inside(program, context, layer):
    """Return the rows that a layer reads on all calibration data, float64."""
    seen = []
    observe(program, ((x,) for x in context.calibration()), [layer.source], lambda _, value: seen.append(layer.rows(value)))
    return torch.cat(seen).double()


def left_error(program, context, layer, columns):
    """Return the weighted squared error of a layer that is fitted without some columns of its inputs, brute force."""
    rows, weight = inside(program, context, layer), read(program, layer.weight).detach().flatten(1).double()
    others = [column for column in range(layer.inputs) if column not in columns]
    best = torch.linalg.lstsq(rows[:, others], rows @ weight.T).solution
    error = (rows[:, others] @ best - rows @ weight.T).square().mean(0)
    return float((error * output_sensitivity(program, context, [layer])[layer.node.name]).sum())


@pytest.fixture
def convolutional(random_context):
    """Two convolutions and a linear layer that reads a flattened picture; the program and its context."""
    module = nn.Sequential(
        nn.Conv2d(2, 5, 3, bias=False), nn.ReLU(), nn.Conv2d(5, 4, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(36, 6, bias=False)
    )
    example = (torch.randn(2, 2, 6, 6),)
    return capture(module.eval(), example), random_context(example, 100)


@pytest.fixture
def trusted(monkeypatch):
    """Moments as they were seen, so that costs are those of the calibration data and not of what it was drawn from."""
    monkeypatch.setattr(Moments, "doubt", 0.0)


@pytest.mark.usefixtures("trusted")
def test_the_cost_of_channels_is_the_error_that_is_left_in_the_layer_that_reads_them(convolutional):
    program, context = convolutional
    found = find(program)
    order = ranking("obs", found, found.groups, context)
    readers = {layer.weight: layer for layer in layers(program)}
    first, second = found.groups
    for group, layer, width in ((first, readers["2.weight"], 4), (second, readers["5.weight"], 9)):
        costs = order.costs(group)
        for channel in range(group.channels):
            expected = left_error(program, context, layer, range(channel * width, (channel + 1) * width))
            assert float(costs[channel]) == pytest.approx(expected, rel=2e-2)
    assert order.in_loss


@pytest.mark.usefixtures("trusted")
def test_channels_that_have_gone_count_in_the_cost_of_the_next(convolutional):
    program, context = convolutional
    found = find(program)
    order = ranking("obs", found, found.groups, context)
    first, _ = found.groups
    [layer] = [layer for layer in layers(program) if layer.weight == "2.weight"]
    changed = order.take(first, [1])
    assert first.name in changed
    both = left_error(program, context, layer, [*range(4, 8), *range(12, 16)])
    assert float(order.costs(first)[3]) == pytest.approx(both - left_error(program, context, layer, range(4, 8)), rel=2e-2)


def test_the_outputs_that_have_gone_make_what_they_were_made_of_cheaper(convolutional):
    program, context = convolutional
    found = find(program)
    first, second = found.groups
    order = ranking("obs", found, found.groups, context)
    before = order.costs(first).clone()
    assert first.name in order.take(second, [0, 1])
    after = order.costs(first)
    assert (after < before).all()
    order.take(second, [2, 3])
    assert not order.costs(first).any()


def test_one_of_two_equal_channels_is_free_and_then_the_other_is_not(convolutional):
    program, context = convolutional
    with torch.no_grad():
        read(program, "0.weight")[4] = 2 * read(program, "0.weight")[1]
    found = find(program)
    order = ranking("obs", found, found.groups, context)
    costs = order.costs(found.groups[0])
    usual = float(costs[[0, 2, 3]].mean())
    assert max(costs[1], costs[4]) < 0.05 * usual
    order.take(found.groups[0], [4])
    assert order.costs(found.groups[0])[1] > 0.3 * usual


def test_a_copy_of_a_ranking_goes_its_own_way(convolutional):
    program, context = convolutional
    found = find(program)
    order = ranking("obs", found, found.groups, context)
    before = [order.costs(group).clone() for group in found.groups]
    copied = copy.deepcopy(order)
    copied.take(found.groups[0], [0, 1])
    copied.take(found.groups[1], [2])
    assert all(torch.equal(order.costs(group), cost) for group, cost in zip(found.groups, before, strict=True))
    assert not torch.equal(copied.costs(found.groups[0])[2:], before[0][2:])


@pytest.mark.parametrize("name", get_args(Importance))
def test_every_criterion_gives_every_channel_a_finite_cost_that_is_not_negative(name, context_of):
    program, context = captured("residual")[0], context_of("residual")
    found = find(program)
    order, again = (ranking(name, find(clone(program)), found.groups, context) for _ in range(2))
    for group in found.groups:
        costs = order.costs(group)
        assert costs.shape == (group.channels,)
        assert costs.isfinite().all()
        assert costs.min() >= 0
        assert torch.equal(costs, again.costs(group)), "twice the same"
        assert costs.max() > costs.min()


@pytest.mark.parametrize("name", [name for name in get_args(Importance) if name not in ("random", "geometric-median")])
def test_a_channel_that_is_zero_everywhere_ranks_lowest(name, context_of):
    program, context = captured("convolution")[0], context_of("convolution")
    groups = find(program).groups
    for group in groups:
        zero(program, {group.name: [c for c in range(group.channels) if c != 2]})
    order = ranking(name, find(program), groups, context)
    for group in groups:
        assert int(order.costs(group).argmin()) == 2


@pytest.mark.parametrize("name", ["l1", "l2", "geometric-median", "batch-norm-scale", "activation"])
def test_what_is_no_loss_is_relative_to_the_mean_of_its_group(name, context_of):
    program, context = captured("convolution")[0], context_of("convolution")
    found = find(program)
    order = ranking(name, found, found.groups, context)
    assert not order.in_loss
    for group in found.groups:
        assert float(order.costs(group).mean()) == pytest.approx(1, rel=1e-5)


def test_random_ranks_differ_between_groups_and_seeds(context_of):
    found = find(captured("residual")[0])
    scores = [ranking("random", found, found.groups, context_of("residual", seed=seed)).scores for seed in (0, 1)]
    first, second = (group.name for group in found.groups[:2])
    assert not torch.equal(scores[0][first], scores[1][first])
    assert not torch.equal(scores[0][first], scores[0][second])


def test_a_criterion_that_says_nothing_about_a_group_is_refused_by_name(context_of):
    found = find(captured("dropout")[0])
    with pytest.raises(NotApplicableError, match=r"'batch-norm-scale' needs batch norm in every group; 0.weight\[0\]"):
        ranking("batch-norm-scale", found, found.groups, context_of("dropout"))


class Comparing(nn.Module):
    """Queries and keys are multiplied with each other: no layer reads them."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.fc = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(7, 5)

    def forward(self, x):
        return self.fc((self.query(x) @ self.key(x).transpose(1, 2)).mean(1))


def test_channels_that_no_layer_reads_are_costed_by_the_fisher_information(random_context):
    example = (torch.randn(2, 7, 6),)
    program, context = capture(Comparing(), example), random_context(example)
    found = find(program)
    [group] = found.groups
    order, fisher = (ranking(name, found, found.groups, context) for name in ("obs", "fisher"))
    assert {slot.tensor for slot in group.slots} == {"query.weight", "query.bias", "key.weight", "key.bias"}
    torch.testing.assert_close(order.costs(group).float(), fisher.costs(group))
