import pytest
import torch
from torch import nn

from laconic.program import capture, clone
from laconic.program.cut import cut
from laconic.race import race


@pytest.fixture(scope="module")
def program():
    return capture(nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 10)), (torch.randn(2, 256),))


def test_a_network_takes_as_long_as_itself(program):
    assert race((torch.randn(2, 256),))(program, clone(program)) == pytest.approx(1, abs=0.5)


def test_a_sixteenth_of_a_network_takes_less_time(program):
    smaller = cut(clone(program), {"0.weight[0]": range(128)})
    assert race((torch.randn(2, 256),))(program, smaller) < 0.6
