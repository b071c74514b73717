"""Rounding by curvature: against the algorithm's statement column by column, and against rounding to nearest."""

import pytest
import torch

from laconic.numeric import curvature
from laconic.numeric.curvature import compensated

OUT, IN = 5, 12
STEP = 0.25


def to_grid(column, _):
    return torch.round(column / STEP) * STEP


@pytest.fixture
def problem():
    """A weight (1, out, in) and correlated inputs (samples, in)."""
    return torch.randn(1, OUT, IN), torch.randn(200, IN) @ torch.randn(IN, IN)


def moments_of(samples):
    return (samples.T @ samples / len(samples)).double()[None]


def error(weight, rounded, samples):
    return float((samples @ (weight - rounded)[0].T).square().mean())


def test_weights_of_uncorrelated_inputs_are_rounded_to_nearest(problem):
    weight, _ = problem
    found = compensated(weight, torch.diag(torch.rand(IN) + 0.1).double()[None], to_grid)
    torch.testing.assert_close(found, to_grid(weight, 0))


def test_second_of_two_weights_makes_up_for_the_first():
    """Worked example: H = [[4, 1], [1, 1]]; 0.2 becomes 0 and the other 0.6 + 0.2 * 1 / 1 = 0.8, so 1 and not 0.5 as to nearest."""

    def to_halves(column, _):
        return torch.round(2 * column) / 2

    weight = torch.tensor([[[0.2, 0.6]]])
    moments = torch.tensor([[[4.0, 1.0], [1.0, 1.0]]]).double()
    found = compensated(weight, moments, to_halves, damping=0.0)
    torch.testing.assert_close(found, torch.tensor([[[0.0, 1.0]]]))
    torch.testing.assert_close(to_halves(weight, 0), torch.tensor([[[0.0, 0.5]]]))


def reference(weight, moments, rounded, damping):
    """Optimal brain quantization of one row after the other: round a weight, solve for the others, and go on without it."""
    moments = moments[0] + damping * moments[0].diagonal().mean() * torch.eye(IN).double()
    order = moments.diagonal().argsort(descending=True, stable=True).tolist()
    left, found = weight[0].double().clone(), torch.zeros(OUT, IN)
    for at, position in enumerate(order):
        found[:, position] = rounded(left[:, position].float(), position)
        lost, later = left[:, position] - found[:, position].double(), order[at + 1 :]
        if later:
            left[:, later] += lost[:, None] * torch.linalg.solve(moments[later][:, later], moments[later, position])[None]
    return found[None]


@pytest.mark.parametrize("block", [1, 5, 128])
def test_later_columns_minimise_the_error_that_earlier_ones_leave(problem, block, monkeypatch):
    """The Cholesky factor holds what solving for the remaining weights anew would give, however many columns are one block."""
    weight, samples = problem
    monkeypatch.setattr(curvature, "_BLOCK", block)
    found = compensated(weight, moments_of(samples), to_grid)
    torch.testing.assert_close(found, reference(weight, moments_of(samples), to_grid, 0.01))


def test_error_of_the_outputs_is_smaller_than_to_nearest(problem):
    weight, samples = problem
    found = compensated(weight, moments_of(samples), to_grid)
    assert torch.equal(found, to_grid(found, 0))
    assert error(weight, found, samples) < 0.8 * error(weight, to_grid(weight, 0), samples)


def test_groups_are_rounded_each_by_its_own_inputs(problem):
    weight, samples = problem
    other = torch.randn(200, IN) @ torch.randn(IN, IN)
    moments = torch.cat([moments_of(samples), moments_of(other)])
    sizes = torch.linspace(2, 1, IN) / moments.diagonal(dim1=1, dim2=2).sqrt()
    moments = moments * sizes[:, :, None] * sizes[:, None]  # the same falling diagonal in both, for the order of columns is common
    together = compensated(torch.cat([weight, 2 * weight]), moments, to_grid)
    alone = [compensated(each, own[None], to_grid) for each, own in zip((weight, 2 * weight), moments, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_rounding_is_told_the_position_of_the_column(problem):
    weight, samples = problem
    seen = []

    def noted(column, position):
        seen.append(position)
        return column

    torch.testing.assert_close(compensated(weight, moments_of(samples), noted), weight)
    falling = moments_of(samples)[0].diagonal()[seen]
    assert sorted(seen) == list(range(IN))
    assert torch.equal(falling, falling.sort(descending=True).values)
