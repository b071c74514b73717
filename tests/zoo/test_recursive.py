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
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == {"conv.weight": (18, 18, 3, 3)}


def test_it_is_applied_three_times(network, images):
    """Written out: pixels as channels, and zeros for the channels that are not there yet."""
    weight = network.conv.weight
    pixels = torch.cat([images[:, :, top::2, left::2] for top in (0, 1) for left in (0, 1)], 1)
    hidden = F.conv2d(pixels, weight[:, :4], padding=1)
    for padding in (1, 0):
        centred = hidden - hidden.mean((1, 2, 3), keepdim=True)
        normal = centred / (centred.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        hidden = F.conv2d(F.max_pool2d(normal.relu(), 2), weight, padding=padding)
    assert torch.allclose(network(images), hidden[:, :10, 0, 0], atol=1e-5)


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
