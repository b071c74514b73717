"""Activation-aware scaling: the function stays, and what rounding loses of the outputs becomes less."""

import numpy as np
import pytest
import torch
from torch import nn

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.program import capture, clone, read, weights
from laconic.quantize import WeightOnly
from laconic.quantize.activation_aware import activation_scale, scale_by_activations
from laconic.quantize.noise import outputs, signal_to_noise


class Gated(nn.Module):
    """A norm of uneven channels, two layers that read it and are multiplied, one that reads the product, and one behind a sum."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm(12)
        self.gate, self.up, self.down, self.out = nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(16, 12), nn.Linear(12, 4)
        with torch.no_grad():
            self.norm.weight.copy_(torch.logspace(-1, 1, 12))
            self.up.bias.copy_(torch.logspace(-1, 1, 16))

    def forward(self, x):
        hidden = self.norm(x)
        hidden = self.down(nn.functional.silu(self.gate(hidden)) * self.up(hidden))
        return self.out(x + hidden)


@pytest.fixture(params=[nn.LayerNorm, nn.RMSNorm], ids=["layer norm", "root mean square norm"])
def gated(request):
    torch.manual_seed(0)
    return capture(Gated(request.param).eval(), (torch.randn(2, 5, 12),))


@pytest.fixture
def inputs():
    return torch.randn(64, 5, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def context(inputs):
    split = Split(inputs.numpy(), np.zeros(len(inputs), np.int64))
    return Context(Splits(split, split, split, split))


def thirds(weight):
    """Round to multiples of a third of the largest in each row."""
    step = weight.value.abs().amax(1, keepdim=True) / 3
    return torch.round(weight.value / step) * step


def test_exponents_0_and_1_give_ones_and_the_magnitudes_around_1():
    magnitudes = torch.tensor([0.5, 2.0, 8.0])
    assert torch.equal(activation_scale(magnitudes, 0.0), torch.ones(3))
    torch.testing.assert_close(activation_scale(magnitudes, 1.0), magnitudes / 2)


def test_channels_that_are_never_used_have_a_finite_scale():
    for magnitudes in (torch.tensor([0.0, 1.0]), torch.zeros(2)):
        scale = activation_scale(magnitudes, 1.0)
        assert torch.isfinite(scale).all()
        assert (scale > 0).all()


def test_the_network_computes_the_same_before_rounding(gated, inputs):
    before, scaled = outputs(gated, [inputs]), clone(gated)
    assert scale_by_activations(scaled, weights(scaled), inputs, thirds) == (3, 4), "what the last reads is a sum"
    torch.testing.assert_close(outputs(scaled, [inputs]), before, rtol=1e-4, atol=1e-5)
    changed = {name for name, value in scaled.state_dict().items() if not torch.equal(value, gated.state_dict()[name])}
    assert {"norm.weight", "gate.weight", "up.weight", "up.bias", "down.weight"} <= changed
    assert not changed & {"gate.bias", "down.bias", "out.weight", "out.bias"}
    assert len(list(scaled.graph.nodes)) == len(list(gated.graph.nodes)), "nothing is left to do at run time"


def test_the_scale_found_is_the_best_of_the_grid_on_the_inputs_themselves(gated, inputs):
    """Against running the layers, rounded, on what they read, for every exponent."""
    scaled = clone(gated)
    scale_by_activations(scaled, weights(scaled, include=("gate", "up")), inputs, thirds)
    chosen, norm = weights(gated, include=("gate", "up")), gated.get_submodule("norm")
    width, gain, offset = 12, norm.weight, getattr(norm, "bias", None)
    if offset is not None:
        read_here = nn.functional.layer_norm(inputs, (width,), gain, offset)
    else:
        read_here = nn.functional.rms_norm(inputs, (width,), gain)
    read_here = read_here.detach()
    magnitudes = read_here.abs().mean((0, 1))

    def error(strength):
        scale = activation_scale(magnitudes, strength)
        total = 0.0
        for weight in chosen:
            step = (weight.value * scale).abs().amax(1, keepdim=True) / 3
            rounded = torch.round(weight.value * scale / step) * step
            total += float(((read_here / scale) @ rounded.T - read_here @ weight.value.T).square().sum())
        return total

    best = min((step / 20 for step in range(21)), key=error)
    assert best > 0
    torch.testing.assert_close(read(scaled, "norm.weight"), gain / activation_scale(magnitudes, best), rtol=1e-4, atol=1e-6)


def test_what_other_operations_read_too_is_left_alone(inputs):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = nn.LayerNorm(12), nn.Linear(12, 12)

        def forward(self, x):
            x = self.norm(x)
            return x + self.fc(x)

    program = capture(Residual().eval(), (torch.randn(2, 5, 12),))
    assert scale_by_activations(program, weights(program), inputs, thirds) == (0, 1)


def test_a_square_is_not_divided_through_its_factor(inputs):
    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 12)

        def forward(self, x):
            hidden = self.up(x)
            return self.down(hidden * hidden)

    program = capture(Squared().eval(), (torch.randn(2, 5, 12),))
    assert scale_by_activations(program, weights(program, include=("down",)), inputs, thirds) == (0, 1)


def test_a_maker_that_is_quantized_already_keeps_its_levels(gated, context):
    WeightOnly(format="int4", include=("up",))(gated, context)
    before = read(gated, "up.weight").detach().clone()
    WeightOnly(format="int4", include=("down",), activation_aware=True)(gated, context)
    assert torch.equal(read(gated, "up.weight"), before)
    assert "weights of 0 of 1 linear layers scaled" in " ".join(context.notes)


def test_uneven_inputs_cost_the_output_less_when_weights_are_scaled(inputs, context):
    torch.manual_seed(0)
    program = capture(nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 40)).eval(), (inputs[:2],))
    with torch.no_grad():
        read(program, "0.weight").copy_(torch.logspace(-1, 1, 12))
    wanted = outputs(program, [inputs])
    made = [WeightOnly(format="int3", activation_aware=on)(clone(program), context) for on in (False, True)]
    plain, scaled = (signal_to_noise(wanted, outputs(each, [inputs])) for each in made)
    assert scaled > plain + 1
