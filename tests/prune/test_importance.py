"""Criteria on worked examples, and against the loss of real little networks."""

import pytest
import torch
from torch.nn import functional as F

from laconic.prune import importance

WEIGHTS = torch.tensor([[3.0, -4.0], [0.0, 1.0], [-1.0, -1.0]])


# Worked examples


def test_norms_of_a_worked_example():
    assert importance.l1(WEIGHTS).tolist() == [7, 1, 2]
    torch.testing.assert_close(importance.l2(WEIGHTS), torch.tensor([5.0, 1.0, 2**0.5]))
    assert importance.batch_norm_scale(WEIGHTS).tolist() == [7, 1, 2]


def test_of_three_points_on_a_line_the_middle_one_goes_first():
    assert importance.geometric_median(torch.tensor([[0.0], [1.0], [5.0]])).tolist() == [6, 5, 9]


def test_the_point_of_fermat_goes_first():
    """An equilateral triangle with its centre: the centre has the smallest sum of distances (of all points of the plane)."""
    corners = torch.tensor([[1.0, 0.0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]])
    scores = importance.geometric_median(torch.cat([corners, torch.zeros(1, 2)]))
    torch.testing.assert_close(scores, torch.tensor([1 + 2 * 3**0.5] * 3 + [3.0]))


def test_the_median_of_many_channels_is_the_summed_distance():
    weights = torch.randn(40, 7)
    brute = torch.stack([torch.stack([(one - other).norm() for other in weights]).sum() for one in weights])
    torch.testing.assert_close(importance.geometric_median(weights), brute, rtol=1e-3, atol=1e-3)


def test_taylor_sums_before_it_squares_and_fisher_after():
    weights, gradients = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[3.0, 1.0], [2.0, -1.0]])
    assert importance.taylor(weights, gradients).tolist() == [25, 0]
    assert importance.fisher(weights, gradients.square()).tolist() == [0.5 * (9 + 4), 0.5 * (4 + 4)]


def test_output_energy_weighs_the_energy_of_inputs_by_squared_weights():
    assert importance.output_energy(torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, -2.0]])).tolist() == [14]


# Against a loss


def test_taylor_is_the_squared_slope_of_the_loss_as_a_channel_fades():
    hidden, out = torch.randn(6, 4).double(), torch.randn(3, 6).double()
    inputs, labels = torch.randn(20, 4).double(), torch.randint(0, 3, (20,))

    def loss(hidden, out):
        return F.cross_entropy(torch.relu(inputs @ hidden.T) @ out.T, labels)

    leaves = hidden.clone().requires_grad_(), out.clone().requires_grad_()
    slopes = torch.autograd.grad(loss(*leaves), leaves)
    rows = [torch.cat([one, other.T], 1) for one, other in ((hidden, out), slopes)]  # what belongs to a hidden neuron
    found = importance.taylor(*rows)
    small = 1e-5
    for channel in range(6):
        changed = hidden.clone(), out.clone()
        changed[0][channel] *= 1 - small
        changed[1][:, channel] *= 1 - small
        change = float(loss(*changed) - loss(hidden, out))
        assert float(found[channel]) == pytest.approx((change / small) ** 2, rel=1e-3, abs=1e-9)


def test_fisher_is_the_divergence_of_the_predictions_as_a_weight_fades():
    """Half the Fisher information times the squared change is the divergence, to second order; one weight is a channel here."""
    weight, inputs = torch.randn(3, 4).double(), torch.randn(30, 4).double()

    def predictions(weight):
        return F.log_softmax(inputs @ weight.T, 1)

    squares = torch.zeros_like(weight)
    for example in inputs:  # every label, by its own probability
        leaf = weight.clone().requires_grad_()
        logs = F.log_softmax(leaf @ example, 0)
        for log in logs:
            squares += log.detach().exp() * torch.autograd.grad(log, leaf, retain_graph=True)[0] ** 2 / len(inputs)
    found = importance.fisher(weight.reshape(-1, 1), squares.reshape(-1, 1)).reshape(3, 4)
    small = 1e-3
    for out in range(3):
        for entry in range(4):
            changed = weight.clone()
            changed[out, entry] *= 1 - small
            divergence = F.kl_div(predictions(changed), predictions(weight), reduction="batchmean", log_target=True)
            assert float(found[out, entry]) == pytest.approx(float(divergence) / small**2, rel=1e-2)


def test_output_energy_is_what_the_outputs_lose_when_inputs_are_uncorrelated():
    inputs, _ = torch.linalg.qr(torch.randn(500, 6).double())  # orthogonal columns
    inputs, weight = inputs * torch.arange(1, 7), torch.randn(4, 6).double()
    found = importance.output_energy(inputs.square().mean(0)[:, None].expand(6, 4), weight.T)
    for channel in range(6):
        changed = weight.clone()
        changed[:, channel] = 0
        lost = (inputs @ weight.T).square().mean(0).sum() - (inputs @ changed.T).square().mean(0).sum()
        torch.testing.assert_close(found[channel], lost)


# Invariants

OF_MATRICES = {
    "l1": (importance.l1, 1),
    "l2": (importance.l2, 1),
    "geometric-median": (importance.geometric_median, 1),
    "batch-norm-scale": (importance.batch_norm_scale, 1),
    "taylor": (importance.taylor, 2),
    "fisher": (importance.fisher, 2),
    "output-energy": (importance.output_energy, 2),
}
every_criterion = pytest.mark.parametrize("name", OF_MATRICES)


@every_criterion
def test_renumbering_channels_renumbers_their_scores(name):
    criterion, count = OF_MATRICES[name]
    matrices, order = [torch.rand(9, 5) for _ in range(count)], torch.randperm(9)
    torch.testing.assert_close(criterion(*(each[order] for each in matrices)), criterion(*matrices)[order])


@every_criterion
def test_the_order_of_entries_does_not_matter(name):
    criterion, count = OF_MATRICES[name]
    matrices, order = [torch.randn(9, 5) for _ in range(count)], torch.randperm(5)
    torch.testing.assert_close(criterion(*(each[:, order] for each in matrices)), criterion(*matrices))


@every_criterion
def test_scores_are_one_number_per_channel_and_not_negative(name):
    criterion, count = OF_MATRICES[name]
    given = [torch.randn(9, 5), torch.rand(9, 5)] if name == "fisher" else [torch.rand(9, 5), torch.randn(9, 5)]
    scores = criterion(*given[:count])
    assert scores.shape == (9,)
    assert scores.min() >= 0


@pytest.mark.parametrize("name", [name for name in OF_MATRICES if name != "geometric-median"])
def test_a_channel_of_zeros_scores_zero_and_no_other_does(name):
    criterion, count = OF_MATRICES[name]
    matrices = [torch.rand(9, 5) + 0.1 for _ in range(count)]
    matrices[-1 if name == "output-energy" else 0][4] = 0
    scores = criterion(*matrices)
    assert scores[4] == 0
    assert (scores > 0).sum() == 8


def test_random_scores_are_uniform_and_follow_the_generator():
    scores = importance.random(2000, torch.Generator().manual_seed(1))
    assert torch.equal(scores, importance.random(2000, torch.Generator().manual_seed(1)))
    assert not torch.equal(scores, importance.random(2000, torch.Generator().manual_seed(2)))
    assert scores.min() >= 0
    assert scores.max() < 1
    assert scores.mean() == pytest.approx(0.5, abs=0.03)
