import pytest
import torch
import torch.nn.functional as F

from laconic import zoo
from laconic.errors import LaconicError
from laconic.pack.network import read_program, write_named
from laconic.program import capture


@pytest.fixture
def network():
    torch.manual_seed(0)
    return zoo.load("recursive")


@pytest.fixture
def images():
    return torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def test_it_is_one_convolution(network):
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == {"conv.weight": (16, 16, 3, 3)}


def test_it_is_applied_four_times(network, images):
    """Written out, with a full kernel from the start: the channels that are not there yet are zero."""
    hidden = F.pad(images, (0, 0, 0, 0, 0, 15))
    for _ in range(3):
        hidden = F.max_pool2d(F.conv2d(hidden, network.conv.weight, padding=1), 2)
        centred = hidden - hidden.mean((1, 2, 3), keepdim=True)
        hidden = (centred / (centred.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()).relu()
    scores = F.conv2d(hidden, network.conv.weight)
    assert torch.allclose(network(images), scores[:, :10, 0, 0], atol=1e-5)


def test_larger_weights_change_nothing_but_the_size_of_the_scores(network, images):
    """So a grid of any step serves: training is free to let the weights grow."""
    before = network(images)
    with torch.no_grad():
        network.conv.weight *= 8
    assert torch.allclose(network(images), 8 * before, rtol=1e-2, atol=1e-2)


def test_under_its_name_it_takes_few_bytes_beside_its_weights(network, images, tmp_path):
    with torch.no_grad():
        network.conv.weight.zero_()
        network.conv.weight[0, 0] = 0.5
    program = capture(network, (images,))
    assert write_named(program, "zoo:recursive", tmp_path / "named.lac") < 60
    assert torch.equal(read_program(tmp_path / "named.lac")(images), program(images))


def test_fewer_channels_than_classes_are_refused():
    with pytest.raises(LaconicError, match="greater than or equal to 10"):
        zoo.load("recursive?width=9")
