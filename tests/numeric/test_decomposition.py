import math

import numpy as np
import pytest
import tensorly as tl
import torch
from tensorly.decomposition import parafac, partial_tucker

from laconic.numeric.decomposition import (
    balanced,
    chained,
    composed,
    cp,
    output_error,
    randomized_spectrum,
    regressed,
    sensitivity,
    spectrum,
    tensor_train,
    tucker,
    variational_rank,
)


def generator():
    return torch.Generator().manual_seed(0)


def kernel(outputs=12, inputs=10, positions=9, rank=6, noise=0.1):
    parts = [torch.randn(size, rank, generator=generator(), dtype=torch.float64) for size in (outputs, inputs, positions)]
    return composed(parts) + noise * torch.randn(outputs, inputs, positions, generator=generator(), dtype=torch.float64)


def moments(size, examples=400):
    mixed = torch.randn(examples, size, generator=generator(), dtype=torch.float64) @ torch.diag(torch.logspace(0, -2, size).double())
    mixed = mixed @ torch.randn(size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return mixed.T @ mixed / examples, mixed


def test_singular_values_tell_the_error_of_every_rank():
    matrix = torch.randn(9, 7, dtype=torch.float64)
    found = spectrum(matrix)
    for rank, error in enumerate(found.errors.tolist()):
        left, right = found.factors(rank)
        assert float((matrix - left @ right).square().sum()) == pytest.approx(error, abs=1e-10)
    assert (found.errors.diff() <= 0).all()
    assert found.errors[-1] == 0
    torch.testing.assert_close(found.factors(7)[0] @ found.factors(7)[1], matrix)


def test_whitened_factors_lose_least_output_of_all_of_their_rank():
    matrix = torch.randn(9, 7, dtype=torch.float64)
    seen, inputs = moments(7)
    found, plain = spectrum(matrix, seen), spectrum(matrix)
    for rank in range(1, 7):
        left, right = found.factors(rank)
        lost = float(((matrix - left @ right) @ inputs.T).square().sum() / len(inputs))
        assert lost == pytest.approx(float(found.errors[rank]), rel=1e-2)
        assert output_error(matrix, left @ right, seen) == pytest.approx(lost / float((inputs @ matrix.T).square().sum() / len(inputs)))
        other = plain.factors(rank)
        assert lost <= float(((matrix - other[0] @ other[1]) @ inputs.T).square().sum() / len(inputs)) + 1e-9
    # the outputs themselves, taken apart: no map of this rank does better
    values = torch.linalg.svdvals(inputs @ matrix.T) ** 2 / len(inputs)
    assert found.errors[3].item() == pytest.approx(float(values[3:].sum()), rel=1e-4)


def test_singular_moments_and_zeros_are_survived():
    matrix = torch.randn(5, 8, dtype=torch.float64)
    one = torch.randn(1, 8, dtype=torch.float64)
    for seen in (one.T @ one, torch.zeros(8, 8, dtype=torch.float64)):
        left, right = spectrum(matrix, seen).factors(5)
        torch.testing.assert_close(left @ right, matrix, rtol=1e-4, atol=1e-4)
    below = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1e-5])).double()  # as sums of float32 may come out
    assert torch.isfinite(spectrum(matrix, below).factors(3)[1]).all()
    assert torch.isfinite(spectrum(torch.zeros(5, 8), one.T @ one).factors(2)[0]).all()
    assert output_error(torch.zeros(5, 8), torch.zeros(5, 8)) == 0


def test_a_randomized_spectrum_is_near_the_true_one():
    matrix = torch.randn(120, 8, dtype=torch.float64) @ torch.randn(8, 90, dtype=torch.float64) + 0.01 * torch.randn(120, 90).double()
    found, true = randomized_spectrum(matrix, 8, generator()), spectrum(matrix)
    torch.testing.assert_close(found.values, true.values[:8], rtol=1e-4, atol=1e-6)
    left, right = found.factors(8)
    assert float((matrix - left @ right).square().sum()) <= 1.01 * float(true.errors[8])
    assert len(randomized_spectrum(matrix[:, :3], 8, generator()).values) == 3


@pytest.mark.parametrize("ranks", [(3, 4), (6, 6), (12, 10), (1, 1)])
def test_tucker_is_as_near_as_that_of_tensorly_and_exact_at_full_rank(ranks):
    whole = kernel()
    core, outputs, inputs = tucker(whole, ranks)
    made = torch.einsum("rsp,or,is->oip", core, outputs, inputs)
    (other, factors), _ = partial_tucker(whole.numpy(), rank=list(ranks), modes=[0, 1], init="svd", n_iter_max=50)
    theirs = tl.tenalg.multi_mode_dot(other, factors, modes=[0, 1])
    ours_lost, theirs_lost = (float(np.square(whole.numpy() - each).sum()) for each in (made.numpy(), theirs))
    assert ours_lost <= 1.01 * theirs_lost + 1e-12
    torch.testing.assert_close(outputs.T @ outputs, torch.eye(ranks[0], dtype=torch.float64))
    if ranks == (12, 10):
        torch.testing.assert_close(made, whole)


def test_tucker_loses_less_with_every_rank():
    whole = kernel(noise=0.5)
    lost = []
    for rank in range(1, 11):
        core, outputs, inputs = tucker(whole, (rank, rank))
        lost.append(float((whole - torch.einsum("rsp,or,is->oip", core, outputs, inputs)).square().sum()))
    assert lost == sorted(lost, reverse=True)


@pytest.mark.parametrize("rank", [2, 6, 9])
def test_cp_is_as_near_as_that_of_tensorly_within_a_hundredth(rank):
    whole = kernel()
    made = composed(cp(whole, rank, generator(), sweeps=200))
    theirs = parafac(whole.numpy(), rank=rank, init="svd", n_iter_max=200, tol=1e-6, random_state=0).to_tensor()
    ours_lost, theirs_lost = (float(np.square(whole.numpy() - each).sum()) for each in (made.numpy(), theirs))
    assert ours_lost <= 1.01 * theirs_lost + 1e-3 * float(whole.square().sum())


def test_cp_of_a_tensor_of_low_rank_is_exact():
    whole = kernel(rank=3, noise=0.0)
    assert float((whole - composed(cp(whole, 3, generator(), sweeps=300, stable=False))).square().sum()) < 1e-3 * float(
        whole.square().sum()
    )


def test_the_stable_form_is_far_less_sensitive_at_nearly_the_same_error():
    # of rank 3, but a limit of tensors of rank 2: the columns of its best fits grow without bound
    x, y = torch.eye(4, dtype=torch.float64)[:2]
    whole = sum(torch.einsum("a,b,c->abc", *each) for each in ((x, x, y), (x, y, x), (y, x, x)))
    free, stable = (cp(whole, 2, generator(), sweeps=2000, stable=each) for each in (False, True))
    assert sensitivity(stable) < 0.5 * sensitivity(free)
    lost = [float((whole - composed(each)).square().sum()) for each in (free, stable)]
    assert lost[1] <= lost[0] + 1.01e-3 * float(whole.square().sum())


def test_sensitivity_is_what_small_changes_do():
    factors = [torch.randn(size, 3, dtype=torch.float64) for size in (4, 5, 6)]
    whole, found = composed(factors), []
    for _ in range(400):
        moved = [each + 1e-4 * torch.randn_like(each) for each in factors]
        found.append(float((composed(moved) - whole).square().sum()) / 1e-8)
    assert np.mean(found) == pytest.approx(sensitivity(factors), rel=0.1)
    torch.testing.assert_close(composed(balanced(factors)), whole)
    assert sensitivity(balanced(factors)) < sensitivity(factors)


def test_what_follows_a_first_map_is_refitted_to_the_outputs():
    matrix, first = torch.randn(6, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    seen, inputs = moments(8)
    found = regressed(matrix, seen, first)
    expected = torch.linalg.lstsq(inputs @ first.T, inputs @ matrix.T).solution.T
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_tensor_train_is_exact_at_full_rank_and_nearer_with_every_rank():
    matrix = torch.randn(24, 30, dtype=torch.float64)
    exact = tensor_train(matrix, (2, 3, 4), (5, 3, 2), 1000)
    torch.testing.assert_close(chained(exact), matrix)
    lost = [float((matrix - chained(tensor_train(matrix, (2, 3, 4), (5, 3, 2), rank))).square().sum()) for rank in (1, 2, 4, 8, 16)]
    assert lost == sorted(lost, reverse=True)
    theirs = tl.decomposition.tensor_train(
        matrix.reshape(2, 3, 4, 5, 3, 2).permute(0, 3, 1, 4, 2, 5).reshape(10, 9, 8).numpy(), [1, 4, 4, 1]
    )
    back = torch.as_tensor(tl.tt_to_tensor(theirs).copy()).reshape(2, 5, 3, 3, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(24, 30)
    assert lost[2] == pytest.approx(float((matrix - back).square().sum()), rel=0.01)
    with pytest.raises(ValueError, match="not taken apart"):
        tensor_train(matrix, (2, 3), (5, 3, 2), 4)


@pytest.mark.parametrize("rank", [0, 1, 5, 20])
def test_the_variational_rank_is_that_of_what_stands_out_of_noise(rank):
    strong = torch.randn(60, rank, dtype=torch.float64) @ torch.randn(rank, 100, dtype=torch.float64)
    assert variational_rank(strong + 0.3 * torch.randn(60, 100, dtype=torch.float64)) == rank
    assert variational_rank((strong + 0.3 * torch.randn(60, 100, dtype=torch.float64)).T) == rank
    assert variational_rank(torch.zeros(60, 100)) == 0
    assert math.isfinite(variational_rank(torch.randn(3, 3)))
