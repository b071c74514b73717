from itertools import product

import numpy as np
import pytest
import torch

from laconic.numeric.codebook import binary_scale, nearest, normal_float, ternary_scale

# As printed in appendix E of the paper
NF4 = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_derived_levels_of_nf4_are_those_of_the_paper():
    levels = normal_float()
    np.testing.assert_allclose(levels, NF4, rtol=0, atol=2e-7)
    assert levels.dtype == torch.float32
    assert 0.0 in levels.tolist()


def test_between_the_levels_of_nf4_lie_even_shares_of_the_normal_distribution_on_each_side():
    levels = normal_float().double() * torch.special.ndtri(torch.tensor(1 - (1 / 30 + 1 / 32) / 2).double())
    shares = torch.special.ndtr(levels).diff()
    torch.testing.assert_close(shares[:7], shares[:1].expand(7), rtol=0, atol=1e-6)
    torch.testing.assert_close(shares[7:], shares[-1:].expand(8), rtol=0, atol=1e-6)


@pytest.mark.parametrize("levels", [[-1.0, 1.0], [-1.0, 0.0, 1.0], NF4])
def test_the_nearest_level_is_the_nearest_of_all(levels):
    values = torch.cat([random(500), torch.linspace(-2, 2, 41)])
    found = nearest(values, torch.tensor(levels))
    for value, position in zip(values.tolist(), found.tolist(), strict=True):
        distances = [abs(value - level) for level in levels]
        assert distances[position] <= min(distances) + 1e-7


def test_of_equally_near_levels_the_higher_is_taken_so_zero_is_binary_one():
    assert nearest(torch.tensor([0.0, -0.0]), torch.tensor([-1.0, 1.0])).tolist() == [1, 1]
    assert nearest(torch.tensor([-0.5, 0.5]), torch.tensor([-1.0, 0.0, 1.0])).tolist() == [1, 2]


def error(row, scale, levels):
    """The squared error of the nearest levels."""
    return min_distances(row, [scale * level for level in levels]).square().sum().item()


def min_distances(row, levels):
    return torch.stack([(row - level).abs() for level in levels]).amin(0)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["normal", "heavy", "sparse"])
def test_the_ternary_scale_is_the_best_of_all_ternary_vectors(seed, kind):
    row = random(7, seed=seed).double()
    row = {"normal": row, "heavy": row**3, "sparse": torch.where(row.abs() > 0.8, row, 0)}[kind]
    best = float("inf")
    for signs in product([-1.0, 0.0, 1.0], repeat=7):
        vector = torch.tensor(signs).double()
        scale = max(0.0, float(row @ vector / vector.square().sum().clamp_min(1)))
        best = min(best, float((row - scale * vector).square().sum()))
    found = float(ternary_scale(row[None])[0])
    assert error(row, found, [-1, 0, 1]) == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_the_exact_ternary_scale_is_never_worse_than_the_approximation_of_the_source():
    rows = torch.cat([random(50, 300), random(50, 300, seed=1) ** 3])
    for row, scale in zip(rows, ternary_scale(rows), strict=True):
        magnitudes = row.abs()
        approximate = magnitudes[magnitudes > 0.7 * magnitudes.mean()].mean()
        assert error(row, scale, [-1, 0, 1]) <= error(row, approximate, [-1, 0, 1]) * (1 + 1e-6)


def test_the_binary_scale_is_the_best_of_a_dense_search():
    rows = torch.cat([random(5, 200), random(5, 200, seed=1) ** 3])
    found = binary_scale(rows)
    torch.testing.assert_close(found, rows.abs().sum(1) / 200)
    for row, scale in zip(rows, found, strict=True):
        others = torch.linspace(0.01, 3, 1000)
        assert error(row, scale, [-1, 1]) <= min(error(row, other, [-1, 1]) for other in others) + 1e-4


def test_entries_that_do_not_count_do_not_lower_the_binary_scale():
    rows, keep = torch.tensor([[1.0, -3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]), torch.tensor([[True, True, False, False], [False] * 4])
    assert binary_scale(rows, keep).tolist() == [2.0, 0.0]
    assert binary_scale(rows).tolist() == [1.0, 0.0]


def test_a_row_of_zeros_has_scale_zero():
    assert ternary_scale(torch.zeros(2, 5)).tolist() == [0.0, 0.0]
