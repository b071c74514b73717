import math

import numpy as np
import pytest
import torch

from laconic.numeric.entropy import adaptive_bits, expected_sizes, logistic_bits
from laconic.pack.writer import Coded, file_of


@pytest.mark.parametrize("size", [0.05, 0.3, 1.0, 7.0])
def test_the_probabilities_of_all_whole_numbers_sum_to_one(size):
    numbers = torch.arange(-400, 401, dtype=torch.float64)
    assert float((2 ** -logistic_bits(numbers, torch.tensor(size, dtype=torch.float64))).sum()) == pytest.approx(1, abs=1e-9)


def test_a_number_costs_what_the_logistic_distribution_says():
    """Against the distribution function as it is written down, for a scale of 2: a mean size of 4 ln 2."""
    number, scale = 3.0, 2.0
    probability = 1 / (1 + math.exp(-3.5 / scale)) - 1 / (1 + math.exp(-2.5 / scale))
    found = logistic_bits(torch.tensor([number, -number]), torch.tensor(4 * math.log(2)))
    assert found.tolist() == pytest.approx([-math.log2(probability)] * 2, rel=1e-5)


def test_costs_stay_finite_where_nothing_was_expected():
    numbers = torch.tensor([0.0, 0.5, 1.0, 127.0], requires_grad=True)
    bits = logistic_bits(numbers, torch.tensor(0.04))
    bits.sum().backward()
    assert torch.isfinite(bits).all()
    assert torch.isfinite(numbers.grad).all()
    assert (bits.diff() > 0).all()


def test_the_gradient_draws_to_zero_and_more_so_among_small_numbers():
    numbers = torch.tensor([[2.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]], requires_grad=True)
    adaptive_bits(numbers).backward()
    assert float(numbers.grad[0, 0]) > float(numbers.grad[1, 0]) > 0


def test_rows_and_columns_of_zeros_let_expect_zeros():
    table = torch.zeros(40, 60)
    table[:10, :20] = torch.randn(10, 20, generator=torch.Generator().manual_seed(0))
    sizes = expected_sizes(table)
    full, beside, below = sizes[:10, :20], sizes[:10, 20:], sizes[10:, :20]
    assert full.min() > 4 * max(beside.max(), below.max())
    assert full.mean() > 10 * max(beside.mean(), below.mean())


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
def test_the_estimate_is_near_what_the_coder_takes(spread):
    generator = np.random.default_rng(0)
    scales = np.exp(generator.normal(size=(100, 1)) / 2 + generator.normal(size=(1, 200)) / 2)
    codes = np.round(spread * scales * generator.logistic(size=(100, 200)) / 2).astype(np.int64)
    size = 8 * len(file_of({"w": Coded(codes.shape, "float32", "grid", (0, 0), codes)}, {}))
    assert float(adaptive_bits(torch.from_numpy(codes).float())) == pytest.approx(size, rel=0.2)


def test_a_tensor_of_one_axis_is_one_row():
    assert float(adaptive_bits(torch.tensor([1.0, 0.0]))) == pytest.approx(float(adaptive_bits(torch.tensor([[1.0, 0.0]]))))
