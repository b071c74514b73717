"""Layers as matrix products, against what the operation itself computes."""

import pytest
import torch
from torch import nn

from laconic.program import Mask, capture, read, represent
from laconic.program.layers import layers
from laconic.program.observe import observe
from networks import NETWORKS, captured

PRODUCTS = {
    "linear on rows": (nn.Linear(6, 4), (3, 6)),
    "linear on sequences": (nn.Linear(6, 4), (3, 5, 6)),
    "linear on grids": (nn.Linear(6, 4), (3, 2, 5, 6)),
    "without bias": (nn.Linear(6, 4, bias=False), (3, 6)),
    "1-d": (nn.Conv1d(3, 4, 3), (2, 3, 9)),
    "1-d with everything": (nn.Conv1d(3, 4, 3, stride=2, padding=2, dilation=3), (2, 3, 12)),
    "1-d without bias": (nn.Conv1d(3, 4, 1, bias=False), (2, 3, 9)),
    "2-d": (nn.Conv2d(3, 4, 3), (2, 3, 7, 8)),
    "2-d without bias": (nn.Conv2d(3, 4, 1, bias=False), (2, 3, 7, 8)),
    "2-d with stride": (nn.Conv2d(3, 4, 3, stride=2), (2, 3, 7, 8)),
    "2-d with everything": (nn.Conv2d(3, 4, 3, stride=2, padding=1, dilation=2), (2, 3, 9, 8)),
    "2-d, each axis another": (nn.Conv2d(3, 4, (3, 2), stride=(2, 3), padding=(0, 2), dilation=(2, 1)), (2, 3, 9, 8)),
    "2-d of one position": (nn.Conv2d(3, 4, 5), (2, 3, 5, 5)),
}


class Called(nn.Module):
    """Convolutions written as a user may write them: whole numbers and lists of one."""

    def __init__(self):
        super().__init__()
        self.flat, self.line = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(5, 4, 3))

    def forward(self, x):
        x = torch.ops.aten.conv2d.default(x, self.flat, None, [2], [1], [1]).flatten(2)
        return torch.ops.aten.conv1d.default(x, self.line, None, [2], [3])


def values_at(program, example, nodes):
    seen = {}
    observe(program, [example], nodes, lambda node, value: seen.update({node: value}))
    return seen


def check(program, example):
    """Every layer's rows times its weight are its targets."""
    found = layers(program)
    seen = values_at(program, example, {node for layer in found for node in (layer.node, layer.source)})
    for layer in found:
        weight, output = read(program, layer.weight), seen[layer.node]
        assert layer.shape == weight.shape
        assert layer.inputs == weight[0].numel()
        assert output.shape[layer.channel_axis()] == len(weight)
        product = layer.rows(seen[layer.source]) @ weight.flatten(1).T
        if layer.bias is not None:
            product = product + read(program, layer.bias)
        torch.testing.assert_close(product, layer.targets(output), rtol=1e-4, atol=1e-5)
        assert layer.spatial == weight.ndim - 2
    return [layer.weight for layer in found]


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_rows_times_the_weight_are_what_the_layer_computes(name):
    module, shape = PRODUCTS[name]
    example = (torch.randn(shape),)
    program = capture(nn.Sequential(module), example)
    assert check(program, example) == ["0.weight"]
    assert (layers(program)[0].bias is None) == (module.bias is None)


def test_numbers_may_be_written_once_for_all_axes():
    example = (torch.randn(2, 3, 8, 6),)
    assert check(capture(Called(), example), example) == ["flat", "line"]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "tied"])
def test_so_they_are_in_every_network(name):
    program, example = captured(name)
    check(program, example)


def test_targets_come_in_the_order_of_rows():
    """Example by example, position by position: the first row is the first window of the first example."""
    images = torch.arange(2 * 1 * 3 * 3.0).reshape(2, 1, 3, 3)
    program = capture(nn.Sequential(nn.Conv2d(1, 2, 2)), (images,))
    [layer] = layers(program)
    rows = layer.rows(images)
    assert rows.shape == (2 * 4, 4)
    assert rows[0].tolist() == [0, 1, 3, 4]
    assert rows[1].tolist() == [1, 2, 4, 5]
    assert rows[4].tolist() == [9, 10, 12, 13]


class Odd(nn.Module):
    """What is no plain product: grouped, read twice, computed, three-dimensional, transposed; and one that is."""

    def __init__(self):
        super().__init__()
        self.grouped, self.twice = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Conv2d(4, 4, 1)
        self.transposed, self.solid = nn.ConvTranspose2d(4, 4, 1), nn.Conv3d(4, 4, 1)
        self.scaled, self.plain = nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x):
        x = self.twice(self.twice(self.grouped(x)))
        x = self.solid(self.transposed(x)[..., None])[..., 0].mean((2, 3))
        return self.plain(nn.functional.linear(x, self.scaled.weight * 2, self.scaled.bias))


def test_grouped_shared_computed_and_other_layers_are_left_out():
    program = capture(Odd(), (torch.randn(2, 4, 5, 5),))
    assert [layer.weight for layer in layers(program)] == ["plain.weight"]


def test_depthwise_and_tied_layers_are_left_out():
    assert "1.0.0.weight" not in [layer.weight for layer in layers(captured("depthwise")[0])]
    assert [layer.weight for layer in layers(captured("tied")[0])] == ["hidden.weight"], "the embedding reads the decoder's weight too"


def test_what_is_represented_is_left_out_and_so_is_a_layer_whose_bias_is():
    program = capture(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)), (torch.randn(2, 4),))
    represent(program, "0.weight", Mask(torch.rand(4, 4) > 0.5))
    represent(program, "1.bias", Mask(torch.rand(4) > 0.5))
    assert [layer.weight for layer in layers(program)] == ["2.weight"]


def test_a_layer_that_shares_its_bias_alone_is_left_out():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    module[2].bias = module[0].bias
    assert [layer.weight for layer in layers(capture(module, (torch.randn(2, 4),)))] == ["1.weight"]
