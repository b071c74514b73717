import math

import pytest
import torch
from torch.distributions import Normal

from laconic.numeric.spread import Spread, weighted_sums

MEAN, DEVIATION = torch.tensor([0.0, 1.5, -2.0, 3.0]), torch.tensor([1.0, 0.5, 1.0, 4.0])
STANDARD = Normal(0.0, 1.0)


def density(x):
    return torch.exp(STANDARD.log_prob(x))


def clipped_mean(mean, deviation, low, high):
    """E[clip(x, low, high)] for a normal x: Nagel et al. 2019, eq. 19, as a formula."""
    alpha, beta = (low - mean) / deviation, (high - mean) / deviation
    inside = STANDARD.cdf(beta) - STANDARD.cdf(alpha)
    outer = low * STANDARD.cdf(alpha) + high * (1 - STANDARD.cdf(beta))
    return outer + mean * inside + deviation * (density(alpha) - density(beta))


def test_a_normal_spread_has_its_mean_and_variance_and_reaches_six_deviations():
    spread = Spread.normal(MEAN, DEVIATION)
    assert spread.channels == 4
    torch.testing.assert_close(spread.mean, MEAN, rtol=0, atol=1e-5)
    torch.testing.assert_close(spread.variance, DEVIATION**2, rtol=1e-5, atol=0)
    torch.testing.assert_close(spread.values.amin(1), MEAN - 6 * DEVIATION)
    torch.testing.assert_close(spread.values.amax(1), MEAN + 6 * DEVIATION)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e4), (0.0, 6.0), (-1.0, 1.0)])
def test_the_mean_behind_a_clip_is_that_of_the_formula(low, high):
    clipped = Spread.normal(MEAN, DEVIATION).through(lambda values: values.clamp(low, high))
    torch.testing.assert_close(clipped.mean, clipped_mean(MEAN, DEVIATION, low, high), rtol=0, atol=2e-4)
    assert clipped.values.min() >= low
    assert clipped.values.max() <= high


def test_the_variance_behind_a_relu_is_that_of_many_draws():
    draws = (MEAN + DEVIATION * torch.randn(400_000, 4, generator=torch.Generator().manual_seed(0))).relu()
    torch.testing.assert_close(Spread.normal(MEAN, DEVIATION).through(torch.relu).variance, draws.var(0), rtol=0.03, atol=1e-3)


def test_a_sum_adds_means_and_variances_and_stays_within_the_sum_of_extremes():
    one, other = Spread.normal(MEAN, DEVIATION), Spread.normal(-MEAN + 9, 0.5 * DEVIATION)
    total = one.plus(other)
    torch.testing.assert_close(total.mean, torch.full((4,), 9.0), rtol=0, atol=1e-4)
    torch.testing.assert_close(total.variance, 1.25 * DEVIATION**2, rtol=1e-4, atol=0)
    positive = one.through(torch.relu).plus(other.through(torch.relu))
    assert (positive.values >= 0).all()
    assert (positive.values.amax(1) <= one.values.amax(1).relu() + other.values.amax(1) + 1e-5).all()


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_weighted_sums_are_those_of_a_loop_over_groups(groups):
    weight, values = torch.randn(8, 4 // groups, 9), torch.randn(4)
    expected = torch.zeros(8)
    for output in range(8):
        group = output // (8 // groups)
        for i in range(4 // groups):
            expected[output] += weight[output, i].sum() * values[group * (4 // groups) + i]
    torch.testing.assert_close(weighted_sums(weight, values), expected)


def test_what_a_layer_gives_has_the_moments_of_many_draws():
    weight, bias = torch.randn(3, 4, 2), torch.tensor([1.0, -2.0, 0.5])
    draws = MEAN[:, None] + DEVIATION[:, None] * torch.randn(200_000, 4, 2, generator=torch.Generator().manual_seed(0))
    outputs = torch.einsum("nct,oct->no", draws, weight) + bias
    spread = Spread.normal(MEAN, DEVIATION).weighted(weight, bias)
    torch.testing.assert_close(spread.mean, outputs.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(spread.variance, outputs.var(0), rtol=0.02, atol=0)


def test_the_histogram_counts_every_channel_once_between_the_extremes():
    spread = Spread.normal(MEAN, DEVIATION).through(torch.relu)
    histogram = spread.histogram()
    assert (histogram.low, histogram.high) == (0.0, 27.0)
    assert float(histogram.counts.sum()) == pytest.approx(4, rel=1e-5)
    assert float((histogram.counts * histogram.centers).sum()) == pytest.approx(float(spread.mean.sum()), abs=0.04)
    assert float(histogram.counts[0]) == pytest.approx(float(STANDARD.cdf(-MEAN / DEVIATION).sum()), abs=0.03)
    assert math.isclose(float(Spread(torch.full((1, 481), 2.0)).histogram().counts.sum()), 1, rel_tol=1e-5)
