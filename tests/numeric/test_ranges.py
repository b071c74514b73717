import numpy as np
import pytest
import torch

from laconic.numeric.ranges import Histogram, divergence_range, mean_square_range, percentile_range

BINS = 2048


def histogram(values, bins=BINS):
    found = Histogram(float(values.min()), float(values.max()), torch.zeros(bins))
    for part in values.split(max(1, len(values) // 3)):
        found.add(part)
    return found


def normal(count=20000, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


SAMPLES = {
    "normal": normal(),
    "shifted": normal() + 2,
    "heavy": normal() ** 3,
    "after a ReLU": normal().relu(),
    "positive": normal().abs() + 0.5,
    "negative": -normal().abs(),
    "below zero": -normal().abs() - 0.5,
}


def test_a_histogram_counts_as_numpy_does():
    values = normal().reshape(100, 10, 20)
    found = Histogram(-3.0, 2.0, torch.zeros(64))
    found.add(values[:50])
    found.add(values[50:].double())
    counts, limits = np.histogram(values.numpy(), 64, (-3.0, 2.0))
    assert abs(found.counts.numpy() - counts).sum() <= 4  # a value on a limit may go to either side
    torch.testing.assert_close(found.centers, torch.tensor((limits[1:] + limits[:-1]) / 2, dtype=torch.float32))


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("share", [0.9, 0.99, 0.999])
def test_a_percentile_range_ends_at_the_quantiles(name, share):
    values = SAMPLES[name]
    low, high = percentile_range(histogram(values), share)
    width = float(values.max() - values.min()) / BINS
    if values.min() < 0 < values.max():
        expected = np.quantile(values.numpy(), [(1 - share) / 2, (1 + share) / 2])
    elif values.min() >= 0:  # the whole share is cut from above
        expected = [float(values.min()), np.quantile(values.numpy(), share)]
    else:
        expected = [np.quantile(values.numpy(), 1 - share), float(values.max())]
    assert low == pytest.approx(expected[0], abs=2 * width)
    assert high == pytest.approx(expected[1], abs=2 * width)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_percentile_range_holds_its_share_and_lies_in_what_was_seen(name):
    values = SAMPLES[name]
    low, high = percentile_range(histogram(values), 0.99)
    assert float(values.min()) <= low < high <= float(values.max())
    assert ((values >= low) & (values <= high)).float().mean() == pytest.approx(0.99, abs=0.005)


def error(values, low, high, bits):
    """Mean square error of rounding to the levels between `low` and `high`, one of them moved onto 0.0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1)
    zero_point = round(-low / scale)
    table = (np.arange(2**bits) - zero_point) * scale
    places = np.clip(np.searchsorted(table, values), 1, len(table) - 1)
    nearest = np.minimum(abs(values - table[places]), abs(values - table[places - 1]))
    return float((nearest**2).mean())


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_mean_square_range_is_as_good_as_trying_all_pairs(name, bits):
    values = SAMPLES[name][:4000]
    found = error(values.numpy(), *mean_square_range(histogram(values), bits), bits)
    shares = np.linspace(0.2, 1, 25)
    low, high = float(values.min()), float(values.max())
    best = min(error(values.numpy(), a * low, b * high, bits) for a in shares for b in shares)
    assert found <= 1.05 * best
    assert found <= 1.001 * error(values.numpy(), low, high, bits)


def test_few_bits_clip_more_than_many():
    spread = histogram(SAMPLES["heavy"])
    narrow, wide = mean_square_range(spread, 3), mean_square_range(spread, 8)
    assert spread.low <= wide[0] < narrow[0] < narrow[1] < wide[1] <= spread.high


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_value_that_never_changes_has_a_range_of_its_own(value):
    constant = histogram(torch.full((100,), value))
    for low, high in (percentile_range(constant, 0.999), mean_square_range(constant, 8)):
        assert np.isfinite([low, high]).all()
        assert low <= value <= high


def divergence(counts, first, end, levels):
    """The measure of the talk, bin by bin: the kept bins with all that is cut off at their ends, from those on so many levels."""
    wanted = counts[first:end].copy()
    wanted[0] += counts[:first].sum()
    wanted[-1] += counts[end:].sum()
    given = np.zeros(end - first)
    level_of = [i * levels // (end - first) for i in range(end - first)]
    for level in range(levels):
        members = [i for i in range(end - first) if level_of[i] == level and wanted[i] > 0]
        for i in members:
            given[i] = counts[[first + j for j in members]].sum() / len(members)
    wanted, given = wanted / wanted.sum(), given / given.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(wanted > 0, wanted * np.log(wanted / given), 0).sum()


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("bits", [4, 5])
def test_a_divergence_range_is_the_best_of_all_that_are_tried(name, bits):
    found = histogram(SAMPLES[name], bins=128)
    low, high = divergence_range(found, bits, candidates=32)
    largest, counts, tried = max(-found.low, found.high), found.counts.double().numpy(), {}
    for share in np.linspace(0, 1, 33)[1:]:
        inside = [i for i, center in enumerate(found.centers.tolist()) if abs(center) <= share * largest]
        if len(inside) >= 2**bits:
            tried[share] = divergence(counts, inside[0], inside[-1] + 1, 2**bits)
    best = min(tried, key=tried.get)
    assert low == pytest.approx(max(found.low, -best * largest), rel=1e-5)
    assert high == pytest.approx(min(found.high, best * largest), rel=1e-5)


def test_a_divergence_range_leaves_the_far_ends_of_a_heavy_tail_out():
    found = histogram(SAMPLES["heavy"])
    low, high = divergence_range(found, 8)
    assert found.low / 2 > low > found.low or found.high / 2 > high > 0
    assert SAMPLES["heavy"].abs().quantile(0.98) < max(-low, high)
