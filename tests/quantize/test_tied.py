import torch
import torch.nn.functional as F
from torch import nn

from laconic.program import capture, fold_batch_norm, weights
from laconic.quantize.placement import Sites, quantized_points
from laconic.quantize.tied import tied
from networks import Call


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def sites_of(model, example=None):
    program = capture(model.eval(), (torch.randn(2, 3, 8, 8) if example is None else example,))
    fold_batch_norm(program)
    chosen = weights(program)
    return Sites(program, tuple(chosen), quantized_points(program, chosen))


def groups(sites):
    """What is tied, by names."""
    found = [
        ({node.name for node in each.values}, {weight.name.removeprefix("layers.") for weight in each.weights}) for each in tied(sites)
    ]
    return sorted(found, key=lambda each: (sorted(each[0]), sorted(each[1])))


def test_in_a_chain_each_weight_is_tied_to_what_it_reads():
    model = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5), nn.ReLU(), conv(5, 2))
    assert groups(sites_of(model)) == [({"input_1"}, {"0.weight"}), ({"relu"}, {"2.weight"}), ({"relu_1"}, {"4.weight"})]


def test_layers_that_read_the_same_values_are_tied():
    model = Call(lambda on, x: on["a"](x).sigmoid() + on["b"](x).tanh(), a=conv(3, 3), b=conv(3, 3))
    assert ({"x"}, {"a.weight", "b.weight"}) in groups(sites_of(model))


def test_what_goes_into_a_sum_is_tied_to_the_sum():
    model = Call(lambda on, x: on["c"](F.relu(x + on["b"](F.relu(on["a"](x))))), a=conv(3, 3), b=conv(3, 3), c=conv(3, 2))
    assert groups(sites_of(model)) == [({"conv2d_1", "relu_1"}, {"c.weight"}), ({"relu"}, {"b.weight"}), ({"x"}, {"a.weight"})]


def test_the_layers_of_one_weight_tie_what_they_read():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4)

        def forward(self, x):
            return self.one(self.one(x).relu())

    assert groups(sites_of(Twice(), torch.randn(2, 4))) == [({"x", "relu"}, {"one.weight"})]


def test_everything_is_in_one_group_and_only_one(program):
    fold_batch_norm(program)
    sites = Sites(program, tuple(weights(program)), quantized_points(program, weights(program)))
    found = tied(sites)
    assert sorted(node.name for each in found for node in each.values) == sorted(node.name for node in sites.points)
    assert sorted(weight.name for each in found for weight in each.weights) == sorted(weight.name for weight in sites.weights)
