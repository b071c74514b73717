"""Whole blocks go: which, how many, and what is left."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from laconic.contract import fingerprint
from laconic.errors import LaconicError, NotApplicableError, UnreachableError
from laconic.measure import macs
from laconic.program import capture, clone, packed_bytes
from laconic.program.blocks import blocks, remove
from laconic.prune import Layers
from laconic.train import Training
from laconic.train.imitation import softened_divergence


class Chain(nn.Module):
    """Residual branches of different weight: the first hardly matters, the last matters most."""

    def __init__(self, sizes=(0.01, 0.3, 1.0, 3.0)):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(64, 16), nn.Linear(16, 10)
        self.branches = nn.ModuleList(nn.Linear(16, 16) for _ in sizes)
        with torch.no_grad():
            for branch, size in zip(self.branches, sizes, strict=True):
                branch.weight *= size
                branch.bias *= size

    def forward(self, images):
        hidden = self.stem(images.flatten(1))
        for branch in self.branches:
            hidden = hidden + torch.tanh(branch(hidden))
        return self.head(hidden)


@pytest.fixture
def chain(context):
    return capture(Chain(), context.example())


def kept(program):
    return [name for name, _ in program.named_parameters() if name.startswith("branches") and name.endswith("weight")]


def test_the_branch_that_matters_least_goes_first(chain, context):
    left = Layers(ratio=0.25)(chain, context)
    assert kept(left) == [f"branches.{number}.weight" for number in (1, 2, 3)]


def test_one_block_less_is_the_best_of_all_that_lack_one(chain, context):
    inputs = torch.cat(list(context.calibration()))[:128]
    with torch.no_grad():
        wanted = chain(inputs)
        damage = {block.layers: float(softened_divergence(remove(clone(chain), block)(inputs), wanted, 1.0)) for block in blocks(chain)}
        [gone] = set(kept(chain)) - set(kept(Layers(ratio=0.25)(clone(chain), context)))
    assert min(damage, key=damage.__getitem__) == (gone,)


@pytest.mark.parametrize(("ratio", "left"), [(0.25, 3), (0.5, 2), (0.75, 1)])
def test_a_ratio_is_the_share_of_the_blocks_that_go(chain, context, ratio, left):
    assert len(kept(Layers(ratio=ratio)(chain, context))) == left


@pytest.mark.parametrize(("unit", "cost"), [("macs", lambda p, e: macs(p, e)), ("bytes", lambda p, e: packed_bytes(p))])
def test_blocks_go_until_the_target_is_met_and_no_longer(chain, context, unit, cost):
    example, before = context.example(), cost(chain, context.example())
    left = Layers(**{unit: 0.8})(clone(chain), context)
    assert cost(left, example) <= 0.8 * before
    assert cost(left, example) + (16 * 16 if unit == "macs" else 4 * (16 * 16 + 16)) > 0.8 * before


def test_a_latency_is_asked_of_the_context(chain, context):
    timed = replace(context, latency=lambda before, after: macs(after, context.example()) / macs(before, context.example()))
    assert macs(Layers(latency=0.7)(clone(chain), timed), context.example()) <= 0.7 * macs(chain, context.example())
    with pytest.raises(LaconicError, match="race"):
        Layers(latency=0.7)(chain, replace(context, latency=None))


def test_batch_norm_is_measured_on_what_it_now_gets(context):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)]
    program = capture(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)), context.example())
    left = Layers(include=("2",))(program, context)
    inputs = torch.cat(list(context.calibration()))
    with torch.no_grad():
        value = layers[4](torch.relu(layers[0](inputs)))
    assert torch.allclose(left.get_buffer("5.running_mean"), value.mean((0, 2, 3)), atol=1e-5)


def test_patterns_say_which_blocks_may_go(chain, context):
    assert kept(Layers(ratio=0.5, exclude=("branches.0",))(clone(chain), context)) == ["branches.0.weight", "branches.3.weight"]
    assert kept(Layers(ratio=0.5, include=("branches.3",))(clone(chain), context)) == [f"branches.{number}.weight" for number in range(3)]


def test_training_follows_where_it_is_asked_for(chain, context):
    step = Layers(ratio=0.5, training=Training(epochs=1, learning_rate=0.01, autocast="off"))
    assert step.trains
    assert not Layers().trains
    plain, trained = (each(clone(chain), context) for each in (Layers(ratio=0.5), step))
    assert kept(plain) == kept(trained)
    assert not torch.equal(plain.get_parameter("stem.weight"), trained.get_parameter("stem.weight"))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"macs": 0.05}, UnreachableError, r"macs=0.05 cannot be reached: 0\.\d+ is left"),
        ({"include": ("nothing",)}, LaconicError, "nothing"),
        ({"include": ("head",)}, NotApplicableError, "no block may go"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_removed(chain, context, settings, error, message):
    before = fingerprint(chain)
    with pytest.raises(error, match=message):
        Layers(**settings)(chain, context)
    assert fingerprint(chain) == before


def test_data_of_another_shape_are_refused(chain, context):
    other = replace(context.splits, calibration=replace(context.splits.calibration, inputs=context.splits.calibration.inputs[..., :4]))
    with pytest.raises(LaconicError, match="calibration data has"):
        Layers()(chain, replace(context, splits=other))


def test_a_network_without_such_blocks_is_refused(context):
    with pytest.raises(NotApplicableError, match="no block may go"):
        Layers()(capture(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), context.example()), context)


@pytest.mark.parametrize("pair", list(itertools.combinations(("ratio", "macs", "bytes", "latency"), 2)))
def test_one_target_is_enough(pair):
    with pytest.raises(ValueError, match="give one of"):
        Layers(**dict.fromkeys(pair, 0.5))
