import math

import numpy as np
import pytest
import torch
from torch import nn

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.errors import LaconicError
from laconic.program import capture, clone
from laconic.program.represent import edges
from laconic.quantize import Static
from laconic.quantize.noise import outputs, signal_to_noise


class Uneven(nn.Module):
    """Three layers over one another: before the second, one value is a thousand times the others, which a grid for all then loses."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 5)
        self.register_buffer("gain", torch.ones(16))
        self.gain[3] = 1000.0
        with torch.no_grad():
            self.second.weight[:, 3] = 0.0

    def forward(self, x):
        x = torch.tanh(self.first(x)) * self.gain
        return self.third(torch.tanh(self.second(x)))


@pytest.fixture
def uneven():
    torch.manual_seed(0)
    return capture(Uneven().eval(), (torch.randn(2, 16),))


@pytest.fixture
def context():
    inputs = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    part = Split(inputs, np.zeros(64, np.int64))
    return Context(Splits(part, part, part, part))


def noise_of(program, original, context):
    """Signal to noise, computed otherwise: entry by entry."""
    inputs = torch.cat(list(context.calibration()))
    with torch.no_grad():
        wanted, given = (each(inputs).double().flatten().tolist() for each in (original, program))
    return 10 * math.log10(sum(a * a for a in wanted) / sum((a - b) ** 2 for a, b in zip(wanted, given, strict=True)))


@pytest.mark.parametrize("settings", [{"signal_to_noise": 20}, {"smoothing": 0.5}], ids=lambda settings: next(iter(settings)))
def test_what_is_measured_needs_inputs(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} needs calibration inputs"):
        Static(calibration="statistics", **settings)


def test_no_noise_is_infinitely_little():
    assert signal_to_noise(torch.ones(3), torch.ones(3)) == math.inf


def test_the_activation_that_hurts_stays_float_and_no_other(uneven, context):
    plain = Static(bias_correction=False, ranges="min-max")(clone(uneven), context)
    before = noise_of(plain, uneven, context)
    made = Static(bias_correction=False, ranges="min-max", signal_to_noise=30)(clone(uneven), context)
    assert before < 15
    assert noise_of(made, uneven, context) >= 30
    assert len(edges(plain)) == 3
    assert {node.args[0].name for node in edges(made)} == {node.args[0].name for node in edges(plain)} - {"mul"}
    assert f"activations of second (43% of the multiplications) stay float: signal to noise {before:.1f} ->" in context.notes[-1]


def test_nothing_stays_float_where_the_outputs_are_near_enough(uneven, context):
    made = Static(ranges="min-max", bias_correction=False, signal_to_noise=3)(uneven, context)
    assert len(edges(made)) == 3
    assert "activations of no layer stay float" in context.notes[-1]


def test_what_weights_alone_do_not_reach_is_refused_with_what_they_do(uneven, context):
    with pytest.raises(LaconicError, match=r"signal_to_noise=90 dB cannot be reached: .* the weights alone give [1-6]\d\.\d dB"):
        Static(signal_to_noise=90)(uneven, context)


def test_biases_are_corrected_only_where_that_comes_nearer(uneven, context):
    made = Static(signal_to_noise=30)(clone(uneven), context)
    without = Static(signal_to_noise=30, bias_correction=False)(clone(uneven), context)
    assert noise_of(made, uneven, context) >= noise_of(without, uneven, context) - 1e-9
    assert any(note.startswith("with corrected biases") for note in context.notes)


def test_outputs_are_those_of_the_network_in_eval_mode_and_it_stays_in_its_own():
    program = capture(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), (torch.randn(2, 4),)).train()
    inputs = torch.randn(6, 4)
    found = outputs(program, [inputs[:4], inputs[4:]])
    assert program.training
    torch.testing.assert_close(found, program.eval()(inputs).detach())


def test_convolutions_around_an_activation_in_float_are_named(program, splits):
    context, original = Context(splits), clone(program)
    settings = {"activation_bits": 3, "ends_bits": 3, "bias_correction": False}
    plain = Static(**settings)(clone(program), context)
    before = noise_of(plain, original, context)
    made = Static(**settings, signal_to_noise=before + 4)(program, context)
    assert noise_of(made, original, context) >= before + 4
    assert {str(node.target) for node in edges(made)} < {str(node.target) for node in edges(plain)}
    named = context.notes[-1].partition("of ")[2].partition(" (")[0].split(", ")
    assert set(named) <= {"stem", "left", "right", "down", "head"}
