"""Wanda's scores against the paper's words, on linear layers, convolutions and groups."""

import numpy as np
import torch
from torch import nn

from laconic.context import Context
from laconic.contract import fingerprint
from laconic.data import Split, Splits
from laconic.program import capture, clone, read
from laconic.program.represent import representations
from laconic.program.scaled import Uniform
from laconic.prune import Wanda
from laconic.prune.wanda import scores
from laconic.quantize import WeightOnly


def context_of(inputs):
    split = Split(inputs.numpy(), np.zeros(len(inputs), np.int64))
    return Context(Splits(split, split, split, split))


def test_the_example_of_the_paper():
    """Figure 1: weights [[4, 0, 1, -1], [3, -2, -1, -3], [-3, 1, 0, 2]] and norms [1, 2, 8, 3]."""
    weight = torch.tensor([[[4.0, 0.0, 1.0, -1.0], [3.0, -2.0, -1.0, -3.0], [-3.0, 1.0, 0.0, 2.0]]])
    found = scores(weight, torch.tensor([[1.0, 4.0, 64.0, 9.0]]))
    assert found[0].tolist() == [[4, 0, 8, 3], [3, 4, 8, 9], [3, 2, 0, 6]]


def test_of_a_linear_layer_each_output_loses_its_half_of_least_score_and_the_rest_stays_as_it_was():
    inputs = torch.randn(50, 6) * torch.tensor([1.0, 5.0, 0.1, 2.0, 0.5, 3.0])
    program = capture(nn.Sequential(nn.Linear(6, 4)), (inputs[:2],))
    weight = read(program, "0.weight").detach().clone()
    Wanda()(program, context_of(inputs))
    wanted = weight.clone()
    for row in range(4):
        for column in sorted(range(6), key=lambda column: float(abs(weight[row, column]) * inputs[:, column].norm()))[:3]:
            wanted[row, column] = 0
    assert torch.equal(read(program, "0.weight"), wanted)


def test_of_a_grouped_convolution_inputs_are_those_that_the_kernel_meets():
    torch.manual_seed(0)
    inputs, layer = torch.randn(9, 4, 5, 5), nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
    program = capture(nn.Sequential(layer), (inputs[:2],))
    weight = read(program, "0.weight").detach().clone()
    Wanda(sparsity=2 / 3)(program, context_of(inputs))
    padded = torch.nn.functional.pad(inputs, (1, 1, 1, 1))
    met = torch.stack([padded[:, :, i : i + 5 : 2, j : j + 5 : 2] for i in range(3) for j in range(3)], 2)  # (n, 4, 9, 3, 3)
    norms = met.square().sum((0, 3, 4)).sqrt().reshape(2, 18)
    for output in range(6):
        score = weight[output].flatten().abs() * norms[output // 3]
        zero = read(program, "0.weight")[output].flatten() == 0
        assert set(zero.nonzero()[:, 0].tolist()) == set(score.argsort()[:12].tolist())


def test_codes_of_a_quantized_layer_stay_where_they_are_not_pruned():
    inputs = torch.randn(20, 8)
    program = WeightOnly(format="int4")(capture(nn.Sequential(nn.Linear(8, 5)), (inputs[:2],)), context_of(inputs))
    before = read(program, "0.weight").detach().clone()
    Wanda()(program, context_of(inputs))
    after = read(program, "0.weight").detach()
    assert isinstance(representations(program, "0.weight")[0], Uniform)
    assert (after == 0).float().mean() >= 0.5
    assert torch.equal(after[after != 0], before[after != 0])


def test_later_layers_are_pruned_by_what_pruned_ones_make():
    torch.manual_seed(0)
    inputs = torch.randn(30, 8)
    program = capture(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), (inputs[:2],))
    both = Wanda(sparsity=0.8)(clone(program), context_of(inputs))
    first = Wanda(sparsity=0.8, include=("0",))(clone(program), context_of(inputs))
    then = Wanda(sparsity=0.8, include=("2",))(first, context_of(inputs))
    alone = Wanda(sparsity=0.8, include=("2",))(clone(program), context_of(inputs))
    assert torch.equal(read(both, "2.weight"), read(then, "2.weight"))
    assert not torch.equal(read(both, "2.weight"), read(alone, "2.weight"))
    assert fingerprint(both) == fingerprint(then)
