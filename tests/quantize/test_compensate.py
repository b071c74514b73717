"""Rounding by curvature in a network: nearer to the float one, on the grids, zeros kept."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.errors import LaconicError
from laconic.program import capture, clone, dense_state, read, sequential, weights
from laconic.program.forms import quantizer_of
from laconic.program.represent import representations
from laconic.prune import Magnitude
from laconic.quantize import WeightOnly

FORMATS = ("int4", "int3", "nf4", "ternary", "binary")
GRANULARITIES = ("tensor", "channel", "group")


def distance(program, whole, split):
    """Return how far the logits are from the whole network's, as a share of theirs."""
    inputs, _ = split.batch(slice(None))
    with torch.no_grad():
        wanted = whole(inputs)
        return float((program(inputs) - wanted).square().mean() / wanted.square().mean())


def quantized(program, context, **settings):
    return WeightOnly(group_size=8, exclude=("stem",), **settings)(clone(program), context)


@pytest.mark.parametrize(
    "settings",
    [{"format": format, "granularity": granularity} for format, granularity in product(FORMATS, GRANULARITIES)]
    + [{"format": "int3", "symmetric": False}],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_what_is_left_of_the_error_is_less_than_to_nearest(settings, program, context):
    """On images that did not calibrate."""
    whole, split = clone(program).eval(), context.splits.validation
    nearest, compensated = (distance(quantized(program, context, rounding=each, **settings), whole, split) for each in ("nearest", "gptq"))
    assert compensated < 0.8 * nearest


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_weights_lie_on_the_grids_that_rounding_to_nearest_has(format, granularity, program, context):
    found, plain = (quantized(program, context, rounding=each, format=format, granularity=granularity) for each in ("gptq", "nearest"))
    for weight in weights(plain):
        form, same = (quantizer_of(representations(each, weight.name)) for each in (found, plain))
        if form is None:
            continue
        assert torch.equal(form.scale, same.scale)
        view = read(found, weight.name).detach()
        torch.testing.assert_close(same(view), view, rtol=1e-6, atol=1e-7)
        assert not torch.equal(view, weight.value)


@pytest.mark.parametrize("format", ["int4", "binary"])
def test_zeros_of_a_pruned_network_stay_zero(format, program, context):
    pruned = Magnitude(sparsity=0.5)(program, context)
    found = quantized(pruned, context, rounding="gptq", format=format)
    for before, after in zip(weights(pruned), weights(found), strict=True):
        assert not after.value[before.value == 0].any()


class Mixed(nn.Module):
    """Layers with groups and without, one that is used twice, one that is transposed, and an embedding's worth of nothing."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 3, padding=1)
        self.own = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.halves = nn.Conv2d(8, 8, 1, groups=2)
        self.turned = nn.ConvTranspose2d(8, 8, 2)
        self.twice = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        values = self.halves(torch.relu(self.own(torch.relu(self.wide(images)))))
        values = self.twice(torch.relu(self.twice(torch.relu(self.turned(values)))))
        return self.head(values.mean((2, 3)))


@pytest.fixture
def mixed():
    images = np.random.default_rng(0).standard_normal((40, 3, 6, 6)).astype(np.float32)
    split = Split(images, np.zeros(40, np.int64))
    return capture(Mixed().eval(), (torch.zeros(2, 3, 6, 6),)), Context(Splits(split, split, split, split))


def test_groups_are_rounded_and_what_is_read_otherwise_is_named(mixed):
    program, context = mixed
    whole = clone(program)
    nearest, found = (WeightOnly(format="int3", rounding=each)(clone(program), context) for each in ("nearest", "gptq"))
    assert "4 weights rounded by curvature, not turned.weight, twice.weight" in context.notes
    differ = {name for name, value in dense_state(found).items() if not torch.equal(value, dense_state(nearest)[name])}
    assert differ <= {"wide.weight", "own.weight", "halves.weight", "head.weight"}
    assert "own.weight" in differ
    assert distance(found, whole, context.splits.calibration) < distance(nearest, whole, context.splits.calibration)


def test_nothing_else_changes(mixed):
    program, context = mixed
    before = dense_state(clone(program))
    after = dense_state(WeightOnly(format="int3", rounding="gptq", include=("own",))(program, context))
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["own.weight"]


def test_formats_that_are_near_enough_are_refused():
    with pytest.raises(ValueError, match="bfloat16 is near enough to round to nearest; rounding: gptq goes with fewer bits"):
        WeightOnly(format="bfloat16", rounding="gptq")


def test_inputs_that_are_not_finite_are_refused(mixed):
    program, context = mixed
    context.splits.calibration.inputs[3, 0, 0, 0] = np.nan
    with pytest.raises(LaconicError, match="calibration inputs hold NaN or infinite numbers"):
        WeightOnly(rounding="gptq")(program, context)


class Stream(nn.Module):
    """A residual stream: each block adds to it what it makes of it; dropout is nothing in eval mode."""

    def __init__(self, blocks=4, width=24):
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(blocks))
        self.dropout = nn.Dropout(0.1)

    def forward(self, values):
        for up, down in zip(self.up, self.down, strict=True):
            values = values + self.dropout(down(torch.relu(up(values))))
        return values


@pytest.fixture
def stream():
    torch.manual_seed(0)
    sequences = (torch.randn(96, 6, 24) @ torch.randn(24, 24)).numpy()
    split = Split(sequences, np.zeros(96, np.int64))
    half, rest = split.take(slice(48)), split.take(slice(48, None))
    return capture(Stream().eval(), (torch.zeros(2, 6, 24),)), Context(Splits(half, half, rest, rest))


def test_later_layers_make_up_for_what_earlier_ones_lost(stream, monkeypatch):
    """On sequences that did not calibrate: with what the float network computed as the aim, and without."""
    program, context = stream
    whole, settings = clone(program), {"format": "int2", "symmetric": False, "rounding": "gptq"}
    aimed = distance(WeightOnly(**settings)(clone(program), context), whole, context.splits.validation)
    monkeypatch.setattr(sequential.Seen, "correction", lambda seen: torch.zeros_like(seen.products.T))
    plain = distance(WeightOnly(**settings)(clone(program), context), whole, context.splits.validation)
    assert aimed < 0.7 * plain
