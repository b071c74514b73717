"""Weights drawn anew: as spread as their layer's inputs ask for, and nothing of what was learned."""

import pytest
import torch

from laconic import zoo
from laconic.errors import LaconicError
from laconic.program import Mask, capture, represent, weights
from laconic.program.initial import randomized
from networks import NETWORKS, captured


def test_kernels_have_the_spread_of_he_and_norms_begin_at_one():
    model = zoo.load("resnet56")
    program = capture(model, zoo.example("resnet56", model))
    with torch.no_grad():
        for tensor in [*program.parameters(), *program.buffers()]:
            tensor.add_(3)
    fresh = randomized(program, torch.Generator().manual_seed(0))
    for weight in weights(fresh):
        inputs = weight.value[0].numel()
        assert float(weight.value.std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.25)
        assert abs(float(weight.value.mean())) < 4 * (2 / inputs / weight.value.numel()) ** 0.5
    assert torch.equal(fresh.get_parameter("bn1.weight"), torch.ones(16))
    assert torch.equal(fresh.get_parameter("bn1.bias"), torch.zeros(16))
    assert torch.equal(fresh.get_buffer("bn1.running_mean"), torch.zeros(16))
    assert torch.equal(fresh.get_buffer("bn1.running_var"), torch.ones(16))
    assert not torch.equal(program.get_buffer("bn1.running_var"), torch.ones(16))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_every_kind_runs_on_new_weights_of_its_seed(name):
    program, example = captured(name)
    one, again, other = (randomized(program, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    with torch.no_grad():
        values = [value[0] if isinstance(value, tuple) else value for value in (each(*example) for each in (one, again, other))]
    assert values[0].isfinite().all()
    assert torch.equal(values[0], values[1])
    if name != "buffers":  # which has no weight
        assert not torch.equal(values[0], values[2])


def test_compressed_weights_are_not_drawn():
    program, _ = captured("convolution")
    [first, *_] = weights(program)
    represent(program, first.name, Mask(torch.ones_like(first.value, dtype=torch.bool)))
    with pytest.raises(LaconicError, match=f"nothing to draw anew .*{first.name} is sparse"):
        randomized(program, torch.Generator())
