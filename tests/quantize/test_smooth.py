import numpy as np
import pytest
import torch
from torch import nn

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.program import capture, clone, read, weights
from laconic.quantize import Static
from laconic.quantize.noise import outputs, signal_to_noise
from laconic.quantize.smooth import migrated, smooth


class Block(nn.Module):
    """A layer norm whose channels are uneven, two layers that read it, and one behind an activation."""

    def __init__(self, residual):
        super().__init__()
        self.norm, self.left, self.right, self.out = nn.LayerNorm(12), nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.residual = residual
        with torch.no_grad():
            self.norm.weight.copy_(torch.logspace(-1, 2, 12))
            self.left.weight.div_(self.norm.weight)
            self.right.weight.div_(self.norm.weight)

    def forward(self, x):
        x = self.norm(x)
        hidden = torch.nn.functional.gelu(self.left(x)) * self.right(x)
        return self.out(hidden + x.tanh() if self.residual else hidden)


@pytest.fixture(params=[False, True], ids=["read by layers only", "read by a sum too"])
def block(request):
    torch.manual_seed(0)
    return capture(Block(request.param).eval(), (torch.randn(2, 5, 12),)), request.param


@pytest.fixture
def batches():
    return [torch.randn(32, 5, 12, generator=torch.Generator().manual_seed(1))]


def test_both_sides_are_as_uneven_as_their_shares_say():
    inputs, read_by = torch.tensor([8.0, 2.0, 0.5]), torch.tensor([1.0, 4.0, 2.0])
    for strength in (0.0, 0.3, 0.5, 1.0):
        scale = migrated(inputs, read_by, strength)
        torch.testing.assert_close(inputs / scale, (inputs * read_by) ** (1 - strength))
        torch.testing.assert_close(read_by * scale, (inputs * read_by) ** strength)


def test_channels_that_are_never_used_stay_as_they_are():
    scale = migrated(torch.tensor([4.0, 0.0, 1e-9, 1.0]), torch.tensor([1.0, 1.0, 1.0, 0.0]), 0.5)
    assert scale.tolist() == [2.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.9])
def test_the_network_computes_the_same(block, batches, strength):
    program, residual = block
    before = outputs(program, batches)
    smoothed = clone(program)
    count, folded = smooth(smoothed, weights(smoothed, kinds=("linear",)), batches, strength)
    assert (count, folded) == (2, 0 if residual else 1)
    torch.testing.assert_close(outputs(smoothed, batches), before, rtol=1e-4, atol=1e-5)
    changed = not torch.equal(read(smoothed, "norm.weight"), read(program, "norm.weight"))
    assert changed != residual, "the norm takes the division only where nothing else reads it"
    assert not torch.equal(read(smoothed, "left.weight"), read(program, "left.weight"))


def test_only_chosen_layers_are_smoothed(block, batches):
    program, _ = block
    before = read(program, "left.weight").detach().clone()
    assert smooth(program, weights(program, include=("out",)), batches, 0.5)[0] == 1
    assert torch.equal(read(program, "left.weight"), before)


def test_a_weight_that_is_read_from_two_places_is_left_alone(batches):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 12)

        def forward(self, x):
            return self.fc(self.fc(x).tanh())

    program = capture(Twice().eval(), (torch.randn(2, 5, 12),))
    assert smooth(program, weights(program), batches, 0.5) == (0, 0)


def test_smoothing_brings_a_network_with_uneven_channels_nearer(block, batches):
    program, _ = block
    split = Split(batches[0].numpy(), np.zeros(32, np.int64))
    context, wanted = Context(Splits(split, split, split, split)), outputs(program, batches)
    found = {strength: Static(smoothing=strength, bias_correction=False)(clone(program), context) for strength in (None, 0.5)}
    plain, smoothed = (signal_to_noise(wanted, outputs(each, batches)) for each in found.values())
    assert smoothed > plain + 5
