"""Elimination against least squares on real samples, by brute force over what is left."""

from itertools import combinations

import pytest
import torch

from laconic.numeric.elimination import damped, elimination, ridge

SAMPLES, INPUTS, OUTPUTS = 200, 8, 5


@pytest.fixture
def problem():
    """Correlated inputs (samples, in), a weight (out, in) and what each output's error costs (out,)."""
    mixing = torch.randn(INPUTS, INPUTS).double()
    return torch.randn(SAMPLES, INPUTS).double() @ mixing, torch.randn(OUTPUTS, INPUTS).double(), torch.rand(OUTPUTS).double() + 0.1


def moments_of(samples):
    return samples.T @ samples / len(samples)


def refitted(samples, weight, gone):
    """Return the weight (out, in), zero at the inputs that are gone, that comes nearest to the outputs of `weight`."""
    left = [i for i in range(samples.shape[1]) if i not in gone]
    best = torch.zeros_like(weight)
    best[:, left] = torch.linalg.lstsq(samples[:, left], samples @ weight.T).solution.T
    return best


def loss(samples, weight, other, importance):
    """Return the mean over samples of the weighted squared error."""
    return float(((samples @ (weight - other).T).square().mean(0) * importance).sum())


def exact(samples, weight, importance):
    return elimination(weight, moments_of(samples), importance, damping=0)


# Costs


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_cost_of_a_set_is_the_error_that_least_squares_on_the_others_leaves(problem, size):
    samples, weight, importance = problem
    sets = torch.tensor(list(combinations(range(INPUTS), size)))
    found = exact(samples, weight, importance).costs(sets)
    expected = [loss(samples, weight, refitted(samples, weight, gone), importance) for gone in sets.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-6, atol=1e-9)


def test_after_some_are_gone_the_cost_is_the_error_that_is_added(problem):
    samples, weight, importance = problem
    state = exact(samples, weight, importance)
    state.take(torch.tensor([1, 4]))
    already = loss(samples, weight, refitted(samples, weight, [1, 4]), importance)
    for gone in ([0], [7], [2, 3], [5, 6, 7]):
        both = loss(samples, weight, refitted(samples, weight, [1, 4, *gone]), importance)
        assert float(state.costs(torch.tensor([gone]))) == pytest.approx(both - already, rel=1e-6)


def test_the_cost_of_uncorrelated_inputs_is_their_energy_times_the_squared_weights():
    """Worked example: unit inputs of variance 4 and 9, one output of weight 3 and 2, importance 0.5."""
    state = elimination(torch.tensor([[3.0, 2.0]]), torch.diag(torch.tensor([4.0, 9.0])), torch.tensor([0.5]), damping=0)
    torch.testing.assert_close(state.costs(torch.tensor([[0], [1]])), torch.tensor([0.5 * 36, 0.5 * 36]).double())


def test_a_copy_of_another_input_costs_nothing_until_the_other_is_gone():
    samples = torch.randn(100, 3).double()
    samples = torch.cat([samples, samples[:, :1]], 1)
    weight, importance = torch.randn(2, 4).double(), torch.ones(2).double()
    state = elimination(weight, moments_of(samples), importance, damping=1e-9)
    assert float(state.costs(torch.tensor([[3]]))) < 1e-6
    state.take(torch.tensor([3]))
    torch.testing.assert_close(state.weight[:, 0], weight[:, 0] + weight[:, 3], rtol=1e-6, atol=1e-6)
    alone = loss(samples, weight, refitted(samples, weight, [0, 3]), importance)
    assert float(state.costs(torch.tensor([[0]]))) == pytest.approx(alone, rel=1e-5)


def test_what_is_gone_costs_nothing_to_take_again(problem):
    state = exact(*problem)
    state.take(torch.tensor([2, 5]))
    expected = state.costs(torch.tensor([[0], [7]]))
    torch.testing.assert_close(state.costs(torch.tensor([[0, 2], [5, 7]])), expected)
    assert state.costs(torch.tensor([[2, 5]])).item() == 0


# Taking


def test_taking_leaves_the_least_squares_weights_on_the_others(problem):
    samples, weight, importance = problem
    state = exact(samples, weight, importance)
    state.take(torch.tensor([0, 3, 6]))
    torch.testing.assert_close(state.weight, refitted(samples, weight, [0, 3, 6]), rtol=1e-7, atol=1e-9)


def test_taking_sets_one_after_the_other_is_taking_them_at_once(problem):
    one, other = exact(*problem), exact(*problem)
    for gone in ([6], [0, 3], [1]):
        one.take(torch.tensor(gone))
    other.take(torch.tensor([0, 1, 3, 6]))
    torch.testing.assert_close(one.weight, other.weight)
    torch.testing.assert_close(one.inverse, other.inverse)


def test_the_inverse_that_is_left_is_that_of_the_moments_that_are_left(problem):
    samples, _, _ = problem
    state = exact(*problem)
    state.take(torch.tensor([0, 5]))
    left = torch.tensor([1, 2, 3, 4, 6, 7])
    torch.testing.assert_close(state.inverse[left][:, left], torch.linalg.inv(moments_of(samples[:, left])))


def test_everything_can_be_taken(problem):
    state = exact(*problem)
    for position in range(INPUTS):
        state.take(torch.tensor([position]))
    assert not state.weight.any()


def test_what_came_is_not_changed(problem):
    samples, weight, importance = problem
    given = (weight.clone(), moments_of(samples), importance.clone())
    kept = [tensor.clone() for tensor in given]
    state = elimination(*given)
    state.take(torch.tensor([1]))
    state.drop(torch.tensor([0]))
    assert all(torch.equal(one, other) for one, other in zip(given, kept, strict=True))


def test_dropped_outputs_cost_nothing_and_the_others_what_they_did(problem):
    samples, weight, importance = problem
    sets = torch.arange(INPUTS)[:, None]
    state = exact(samples, weight, importance)
    state.drop(torch.tensor([0, 3]))
    rest = torch.tensor([1, 2, 4])
    torch.testing.assert_close(state.costs(sets), exact(samples, weight[rest], importance[rest]).costs(sets))
    state.drop(rest)
    assert not state.costs(sets).any()


# Ridge and damping


def test_ridge_is_the_minimum_of_what_it_says():
    samples, targets, prior = torch.randn(50, 6).double(), torch.randn(50, 3).double(), torch.randn(3, 6).double()
    found = ridge(samples.T @ samples, samples.T @ targets, prior, damping=0.3).requires_grad_()
    strength = 0.3 * (samples.T @ samples).diagonal().mean()
    objective = (targets - samples @ found.T).square().sum() + strength * (found - prior).square().sum()
    [slope] = torch.autograd.grad(objective, found)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)


def test_ridge_with_little_damping_is_least_squares():
    samples, targets = torch.randn(50, 6).double(), torch.randn(50, 3).double()
    found = ridge(samples.T @ samples, samples.T @ targets, torch.zeros(3, 6), damping=1e-12)
    torch.testing.assert_close(found, torch.linalg.lstsq(samples, targets).solution.T, rtol=1e-8, atol=1e-8)


def test_ridge_goes_to_the_prior_where_the_inputs_do_not_determine_it():
    """Input 2 is never there, and 0 and 1 are always equal: only their sum is determined."""
    first = torch.randn(40, 1).double()
    samples, prior = torch.cat([first, first, torch.zeros(40, 1).double()], 1), torch.tensor([[1.0, 4.0, -7.0]]).double()
    found = ridge(samples.T @ samples, samples.T @ (first * 9), prior, damping=1e-6)[0]
    assert float(found[2]) == pytest.approx(-7)
    assert float(found[0] + found[1]) == pytest.approx(9, rel=1e-4)
    assert float(found[1] - found[0]) == pytest.approx(3, rel=1e-4)


def test_the_prior_is_the_answer_to_no_inputs_at_all():
    prior = torch.randn(2, 3)
    found = ridge(torch.zeros(3, 3), torch.zeros(3, 2), prior)
    assert found.isfinite().all()
    torch.testing.assert_close(found, prior.double())


@pytest.mark.parametrize("samples", [torch.zeros(5, 4), torch.ones(5, 4), torch.randn(2, 4)], ids=["zero", "equal", "few"])
def test_singular_moments_give_finite_costs_that_are_not_negative(samples):
    weight = torch.randn(3, 4)
    state = elimination(weight, moments_of(samples.double()), torch.ones(3))
    sets = torch.arange(4)[:, None]
    for position in range(4):
        costs = state.costs(sets[position:])
        assert costs.isfinite().all()
        assert costs.min() >= 0
        state.take(torch.tensor([position]))
        assert state.weight.isfinite().all()


def test_damping_adds_a_share_of_the_mean_of_the_diagonal():
    moments = torch.tensor([[3.0, 1.0], [1.0, 5.0]]).double()
    assert damped(moments, 0.5).tolist() == [[5.0, 1.0], [1.0, 7.0]]
    assert torch.linalg.matrix_rank(damped(torch.zeros(3, 3).double(), 0.1), tol=1e-20) == 3
