from itertools import pairwise
from math import prod

import pytest
import torch
from torch import nn

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.factorize.mixed import WAYS
from laconic.factorize.plan import Curve, apart, subjects, within
from laconic.factorize.ways import Option
from laconic.measure import macs
from laconic.program import capture, read
from laconic.program.layers import layers
from laconic.program.noise import relative_error

KINDS = ("svd", "spatial", "tucker", "cp")


def offered(kind, subject, ranks, generator):
    return [option for way in WAYS[kind] for option in way.options(subject, ranks, generator)]


class One(nn.Module):
    """One convolution of every sort that changes what positions there are."""

    def __init__(self, **settings):
        super().__init__()
        self.conv = nn.Conv2d(6, 9, **settings)

    def forward(self, x):
        return self.conv(x)


SHAPES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 5), "stride": (1, 2), "padding": (1, 0)},
    {"kernel_size": 3, "dilation": 2, "stride": 2, "bias": False},
]


def everything(model, shape):
    torch.manual_seed(2)
    inputs = torch.randn(200, *shape)
    inputs = inputs + inputs.roll(1, -1) + inputs.mean(1, keepdim=True)  # neighbours and channels have to do with each other
    part = Split(inputs.numpy(), torch.zeros(200).long().numpy())
    context = Context(Splits(None, part, part, part))
    program = capture(model.eval(), context.example())
    return program, context, subjects(program, context, True, (), ())


@pytest.mark.parametrize("settings", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_costs_errors_and_outputs_are_those_of_the_network_that_is_made(kind, settings):
    program, context, [subject] = everything(One(**settings), (6, 10, 12))
    assert subject.macs == macs(program, context.example())
    inputs = torch.cat(list(context.calibration()))
    ways = offered(kind, subject, [1, 3], context.generator())
    assert len(ways) >= 2
    for way in ways:
        curve = Curve(subject, tuple(ways), 1.0)
        made = apart(program, [curve], {curve.name: way}, context)
        parts = [read(made, name) for name in made.state_dict() if name.startswith("conv.") and name.count(".") > 1]
        assert way.parameters == sum(part.numel() for part in parts)
        assert way.macs == macs(made, context.example())
        with torch.no_grad():
            before, after = (
                each(inputs) - (0 if subject.layer.bias is None else read(each, "conv.bias").reshape(-1, 1, 1)) for each in (program, made)
            )
        assert relative_error(after, before) == pytest.approx(way.error, rel=0.05, abs=1e-6)
        whole = way.way.product(way.way.stages(subject, way.ranks, context.generator()))
        dense = nn.functional.conv2d(
            inputs,
            whole.reshape(subject.layer.shape).float(),
            None,
            *[subject.layer.each(name) for name in ("stride", "padding", "dilation")],
        )
        torch.testing.assert_close(after, dense, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_more_rank_is_never_worse_and_full_rank_is_exact(kind):
    _, context, [subject] = everything(One(kernel_size=3, padding=1), (6, 8, 8))
    ranks = list(range(1, WAYS[kind][0].limit(subject) + 1))
    ranks = ranks if kind != "cp" else [1, 2, 4, 8, 16, 32, ranks[-1]]
    errors = [min(way.error for way in offered(kind, subject, [rank], context.generator())) for rank in ranks]
    slack = 0.02 if kind == "cp" else 1e-9
    assert all(later <= earlier + slack for earlier, later in pairwise(errors))
    assert errors[-1] < (1e-2 if kind == "cp" else 1e-6)
    assert errors[0] > 0.05


def test_linear_layers_and_series_are_taken_apart_too():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv1d(4, 8, 5, stride=2), nn.Linear(8, 12)

        def forward(self, x):
            return self.fc(self.conv(x).transpose(1, 2))

    program, context, found = everything(Both(), (4, 20))
    assert [subject.layer.weight for subject in found] == ["conv.weight", "fc.weight"]
    for subject in found:
        for kind in KINDS:
            for way in offered(kind, subject, [2], context.generator()):
                curve = Curve(subject, (way,), 1.0)
                made = apart(program, [curve], {curve.name: way}, context)
                assert macs(made, context.example()) - macs(program, context.example()) == way.macs - subject.macs
    assert not WAYS["tucker"][0].fits(found[1])
    assert not WAYS["spatial"][0].fits(found[0])


class Words(nn.Module):
    """A table of words, and a layer on the mean of a sentence."""

    def __init__(self):
        super().__init__()
        self.words, self.fc = nn.Embedding(40, 12), nn.Linear(12, 5)

    def forward(self, x):
        return self.fc(self.words(x).mean(1))


def test_a_table_of_words_becomes_a_narrower_one_by_the_words_that_occur():
    torch.manual_seed(0)
    sentences = torch.randint(0, 8, (200, 6))  # of forty words eight occur
    part = Split(sentences.numpy(), torch.zeros(200).long().numpy())
    context = Context(Splits(None, part, part, part))
    program = capture(Words().eval(), context.example())
    for whiten in (True, False):
        found = subjects(program, context, whiten, ("words*",), ())
        [subject] = found
        ways = offered("svd", subject, [2, 5, 12], context.generator())
        assert not offered("tucker", subject, None, context.generator())
        for way in ways:
            curve = Curve(subject, (way,), 1.0)
            made = apart(program, [curve], {curve.name: way}, context)
            assert made.get_parameter("words.down.weight").shape == (40, way.ranks[0])
            assert way.macs == macs(made, context.example()) - macs(program, context.example())
            table = made.get_parameter("words.down.weight") @ made.get_parameter("words.up.weight").T
            torch.testing.assert_close(way.way.product(way.way.stages(subject, way.ranks, context.generator())).float(), table)
            often = torch.bincount(sentences.flatten(), minlength=40) + 1.0 if whiten else torch.ones(40)
            apart_by = (often[:, None] * (table - program.get_parameter("words.weight")).square()).sum()
            whole = (often[:, None] * program.get_parameter("words.weight").square()).sum()
            assert (apart_by / whole).item() == pytest.approx(way.error, rel=1e-3, abs=1e-6)
        assert ways[-1].error == pytest.approx(0, abs=1e-9)


def test_only_ways_that_save_something_are_options():
    _, context, [subject] = everything(One(kernel_size=3, padding=1), (6, 8, 8))
    for kind in KINDS:
        for way in offered(kind, subject, None, context.generator()):
            assert way.parameters < subject.weight.numel()


def test_the_choice_is_the_best_of_all_choices():
    model = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 64, 10))
    program, context, found = everything(model, (6, 8, 8))
    known = []
    for number, subject in enumerate(found):
        ways = [way for kind in ("svd", "spatial", "tucker") for way in offered(kind, subject, None, context.generator())][::3]
        known.append(Curve(subject, tuple(ways), 1.0 + number))
    total = macs(program, context.example())
    for unit, cost_of, whole in (
        ("macs", lambda way: way.macs, lambda each: each.macs),
        ("bytes", lambda way: 4 * way.parameters, lambda each: 4 * prod(each.layer.shape)),
    ):
        picked, allocation = within(program, known, unit, 0.6, context)
        every = [[(whole(curve.subject), 0.0), *((cost_of(way), curve.loss(way)) for way in curve.options)] for curve in known]
        fixed = 0 if unit == "macs" else 4 * sum(read(program, layer.bias).numel() for layer in layers(program))
        least = min(
            a[1] + b[1] + c[1]
            for a in every[0]
            for b in every[1]
            for c in every[2]
            if a[0] + b[0] + c[0] + fixed <= 0.6 * (total if unit == "macs" else sum(each[0][0] for each in every) + fixed)
        )
        assert allocation.loss == pytest.approx(least)
        assert allocation.gap == pytest.approx(0, abs=1e-12)
        assert sum(curve.loss(picked[curve.name]) for curve in known if curve.name in picked) == pytest.approx(least)


def test_an_option_says_what_it_is():
    assert str(Option(WAYS["tucker"][0], (8, 4), 0.1, 10, 20)) == "tucker 8x4"
