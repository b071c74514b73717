"""The choice of what stays: the asked cost is met when it is really cut and measured, and no cheaper choice was there."""

from itertools import chain, combinations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from laconic.errors import LaconicError
from laconic.measure import macs
from laconic.program import capture, clone, packed_bytes
from laconic.program.cut import cut
from laconic.program.groups import find
from laconic.prune.ranking import Fixed, ranking
from laconic.prune.target import Target, choose
from networks import convolution


class Wide(nn.Module):
    """A residual network, wide enough that one channel more or less is little."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer = convolution(3, 40), convolution(40, 64), convolution(64, 40)
        self.down, self.fc = convolution(40, 96, stride=2), nn.Linear(96 * 4, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.fc(F.max_pool2d(self.down(x + self.outer(self.inner(x))), 2).flatten(1))


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 64)
        self.layer = nn.TransformerEncoderLayer(64, 8, 192, dropout=0.0, batch_first=True)
        self.fc = nn.Linear(64, 5)

    def forward(self, x):
        return self.fc(self.layer(self.embed(x))[:, 0])


WIDE = {"residual": (Wide, (2, 3, 8, 8)), "attention": (Attending, (2, 5, 6))}
_CAPTURED = {}


def wide(name):
    """Return a fresh copy of the program and its example."""
    if name not in _CAPTURED:
        torch.manual_seed(0)
        make, shape = WIDE[name]
        example = (torch.randn(shape),)
        _CAPTURED[name] = capture(make().eval(), example), example
    program, example = _CAPTURED[name]
    return clone(program), example


def drawn(groups, in_loss=True):
    """Random scores."""
    return Fixed({group.name: torch.rand(group.channels) for group in groups}, in_loss)


def filters(found):
    return [group for group in found.groups if not group.heads]


# The target is met


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("in_loss", [True, False])
@pytest.mark.parametrize(("unit", "share"), [("macs", 0.5), ("macs", 0.3), ("bytes", 0.5), ("bytes", 0.3)])
def test_the_network_that_is_cut_costs_what_was_asked(name, unit, share, in_loss):
    program, example = wide(name)
    found, measured = find(program), {"macs": lambda each: macs(each, example), "bytes": packed_bytes}[unit]
    keep = choose(found, filters(found), drawn(found.groups, in_loss), Target(unit, share))
    small = cut(clone(program), keep)
    assert measured(small) / measured(program) == pytest.approx(share, rel=0.02)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.25])
def test_a_share_of_structures_is_exact(share):
    found = find(wide("residual")[0])
    groups = filters(found)
    keep = choose(found, groups, drawn(groups), Target("structures", share, floor=0))
    left = sum(len(keep.get(group.name, range(group.channels))) for group in groups)
    assert left == pytest.approx(share * sum(group.channels for group in groups), abs=1)


def test_a_target_of_everything_takes_nothing():
    found = find(wide("residual")[0])
    assert choose(found, filters(found), drawn(found.groups), Target("macs", 1.0)) == {}


def test_where_a_channel_more_would_go_too_far_it_ends_just_above():
    """Two neurons of ten: 0.55 of the structures is six, not five."""
    program = capture(nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 2)), (torch.randn(2, 3),))
    found = find(program)
    [kept] = choose(found, found.groups, drawn(found.groups), Target("structures", 0.55)).values()
    assert len(kept) == 6


# Floors and multiples


@pytest.mark.parametrize(("floor", "share"), [(0.0, 0.05), (0.1, 0.1), (0.4, 0.3)])
def test_every_group_keeps_its_floor_and_one_channel_at_least(floor, share):
    found = find(wide("residual")[0])
    groups = filters(found)
    cheap = Fixed({group.name: torch.full((group.channels,), 1.0 if number else 0.0) for number, group in enumerate(groups)}, True)
    keep = choose(found, groups, cheap, Target("macs", share, floor=floor))
    for group in groups:
        assert len(keep.get(group.name, range(group.channels))) >= max(1, floor * group.channels)
    first = keep[groups[0].name]
    assert len(first) == pytest.approx(max(1, floor * groups[0].channels), abs=1), "what costs nothing goes, down to the floor"


@pytest.mark.parametrize("multiple", [8, 16])
@pytest.mark.parametrize("unit", ["macs", "bytes", "structures"])
def test_what_stays_is_a_multiple_or_all(unit, multiple):
    found = find(wide("residual")[0])
    groups = filters(found)
    assert any(group.channels % 16 for group in groups)
    keep = choose(found, groups, drawn(groups), Target(unit, 0.5, multiple_of=multiple))
    assert keep
    assert all(len(kept) % multiple == 0 for kept in keep.values())


def test_a_group_narrower_than_the_multiple_stays_whole():
    program = capture(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2)), (torch.randn(2, 3),))
    found = find(program)
    narrow, broad = found.groups
    keep = choose(found, found.groups, drawn(found.groups), Target("structures", 0.7, multiple_of=8))
    assert narrow.name not in keep
    assert len(keep[broad.name]) == 24


@pytest.mark.parametrize("unit", ["macs", "bytes", "structures"])
def test_what_cannot_be_reached_is_told_with_what_can(unit):
    program, _ = wide("residual")
    found = find(program)
    with pytest.raises(LaconicError, match=rf"{unit}=0.05 cannot be reached: 0\.\d+ of the {unit} is the least") as told:
        choose(found, filters(found), drawn(found.groups), Target(unit, 0.05, floor=0.5))
    least = float(str(told.value).partition("reached: ")[2].split()[0])
    keep = choose(found, filters(found), drawn(found.groups), Target(unit, least + 0.002, floor=0.5))
    for group, kept in zip(filters(found), keep.values(), strict=True):
        assert 0.5 <= len(kept) / group.channels < 0.53


# Which go


def test_of_one_group_the_cheapest_go():
    program = capture(nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 2)), (torch.randn(2, 3),))
    found = find(program)
    [group] = found.groups
    for in_loss in (True, False):
        order = drawn([group], in_loss)
        [kept] = choose(found, [group], order, Target("macs", 0.3)).values()
        assert kept == sorted(order.scores[group.name].argsort(descending=True)[: len(kept)].tolist())


def test_scores_of_no_unit_rank_all_groups_together():
    found = find(wide("residual")[0])
    groups = filters(found)
    order = drawn(groups, in_loss=False)
    keep = choose(found, groups, order, Target("structures", 0.5, floor=0))
    gone = torch.cat([order.scores[g.name][[c for c in range(g.channels) if c not in keep.get(g.name, range(g.channels))]] for g in groups])
    left = torch.cat([order.scores[g.name][keep.get(g.name, list(range(g.channels)))] for g in groups])
    assert gone.max() < left.min()


class Branches(nn.Module):
    """Two hidden layers side by side: what a neuron saves does not depend on what else is gone, but differs between them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 5)
        self.c, self.d = nn.Linear(6, 3), nn.Linear(5, 9)

    def forward(self, x):
        return torch.cat([self.c(self.a(x).relu()), self.d(self.b(x).relu())], 1)


def subsets(count):
    return chain.from_iterable(combinations(range(count), size) for size in range(count))


def test_no_choice_that_saves_as_much_costs_less():
    """All 63 * 31 choices, by brute force."""
    found = find(capture(Branches(), (torch.randn(2, 4),)))
    one, other = found.groups
    saves = 4 + 3, 4 + 9  # multiply-accumulates per neuron
    for share in (0.8, 0.5, 0.25):
        order = drawn(found.groups)
        scores = order.scores[one.name], order.scores[other.name]
        kept = choose(found, found.groups, order, Target("macs", share))
        gone = [[c for c in range(g.channels) if c not in kept.get(g.name, range(g.channels))] for g in found.groups]
        saved = sum(len(each) * save for each, save in zip(gone, saves, strict=True))
        cost = sum(float(score[each].sum()) for each, score in zip(gone, scores, strict=True))
        every = ((a, b) for a in subsets(6) for b in subsets(5) if len(a) * saves[0] + len(b) * saves[1] >= saved)
        best = min(float(scores[0][list(a)].sum() + scores[1][list(b)].sum()) for a, b in every)
        assert cost == pytest.approx(best, rel=0.1, abs=0.05), "greedy, up to the last channel that still fits"
        assert cost >= best - 1e-6


def test_channels_that_save_more_go_before_equals_that_save_less():
    found = find(capture(Branches(), (torch.randn(2, 4),)))
    same = Fixed({group.name: torch.ones(group.channels) for group in found.groups}, True)
    keep = choose(found, found.groups, same, Target("macs", 0.75))
    assert list(keep) == [found.groups[1].name]


def test_a_choice_is_the_same_twice_and_leaves_the_program_alone(random_context):
    program, example = wide("residual")
    context, choices = random_context(example), []
    before = {name: tensor.clone() for name, tensor in program.state_dict().items()}
    for _ in range(2):
        found = find(program)
        choices.append(choose(found, filters(found), ranking("obs", found, filters(found), context), Target("macs", 0.5)))
    assert choices[0] == choices[1]
    assert all(torch.equal(before[name], tensor) for name, tensor in program.state_dict().items())
