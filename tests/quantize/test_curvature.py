"""Curvature against the Hessian that autograd gives, and against what small errors really cost."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from laconic.program import Uniform, capture, weights
from laconic.quantize import curvature
from laconic.quantize.candidates import Candidates
from laconic.quantize.curvature import divergence, loss_by_curvature, root_times
from laconic.quantize.placement import Sites, quantized_points


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).eval()


@pytest.fixture
def candidates(model):
    program = capture(model, (torch.randn(2, 5),))
    sites = Sites(program, tuple(weights(program)), quantized_points(program, weights(program)))

    def weight_grid(weight, bits):
        return Uniform(weight.value.abs().amax(1) / (2 ** (bits - 1) - 1), bits=bits, axis=0)

    def value_grid(node, bits):
        return Uniform(torch.tensor(8 / 2**bits), torch.tensor(2.0 ** (bits - 1)), bits, signed=False)

    return Candidates(sites, (3, 6), (4, 8), weight_grid, value_grid, learned=False, corrected=False)


def test_the_root_times_its_transpose_is_the_fisher_information_of_the_softmax():
    probabilities = torch.randn(7).softmax(0).double()
    root = torch.stack([root_times(probabilities, unit) for unit in torch.eye(7).double()], 1)
    torch.testing.assert_close(root @ root.T, probabilities.diag() - torch.outer(probabilities, probabilities))


def test_the_divergence_is_the_mean_over_examples_of_kullback_and_leibler():
    found, wanted = torch.randn(6, 4), torch.randn(6, 4)
    expected = nn.functional.kl_div(found.log_softmax(-1), wanted.log_softmax(-1), reduction="batchmean", log_target=True)
    assert divergence(found, wanted) == pytest.approx(float(expected), rel=1e-5)
    assert divergence(wanted + 3, wanted) == pytest.approx(0, abs=1e-7)


def test_the_loss_of_a_weight_is_half_the_mean_of_the_hessians_diagonal_times_the_squared_error(model, candidates, monkeypatch):
    monkeypatch.setattr(curvature, "_PROBES", 1500)
    inputs = torch.randn(24, 5)
    losses = loss_by_curvature(candidates, inputs, torch.Generator().manual_seed(0))
    wanted = model(inputs).detach().log_softmax(-1)
    for weight in candidates.sites.weights:

        def loss(value, name=weight.name):
            return nn.functional.kl_div(
                functional_call(model, {name: value}, (inputs,)).log_softmax(-1), wanted, reduction="batchmean", log_target=True
            )

        size = weight.value.numel()
        hessian = torch.autograd.functional.hessian(loss, weight.value.clone()).reshape(size, size)
        for bits in (3, 6):
            squares = (candidates.weight_grid(weight, bits)(weight.value) - weight.value).square().sum()
            expected = (hessian.diagonal().mean() * squares / 2).detach()
            assert losses.weights[weight.name][bits] == pytest.approx(expected.item(), rel=0.05)


def test_the_loss_of_values_is_what_random_errors_of_their_size_cost(model, candidates, monkeypatch):
    monkeypatch.setattr(curvature, "_PROBES", 500)
    inputs = torch.randn(40, 5)
    losses = loss_by_curvature(candidates, inputs, torch.Generator().manual_seed(0))
    [node] = [each for each in candidates.sites.points if each.name == "tanh"]
    hidden, tail = model[1](model[0](inputs)).detach(), model[2]
    with torch.no_grad():
        error = (candidates.value_grid(node, 8)(hidden) - hidden).square().mean().sqrt()
        cost = [divergence(tail(hidden + error * torch.randn_like(hidden)), tail(hidden)) for _ in range(400)]
    assert losses.activations[node][8] == pytest.approx(sum(cost) / len(cost), rel=0.1)


def test_the_same_signs_give_the_same_loss_and_the_network_keeps_no_gradients(candidates):
    inputs = torch.randn(20, 5)
    one, other = (loss_by_curvature(candidates, inputs, torch.Generator().manual_seed(3)) for _ in range(2))
    assert one == other
    assert all(parameter.grad is None for parameter in candidates.sites.program.parameters())
