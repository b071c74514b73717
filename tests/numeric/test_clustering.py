import itertools

import numpy as np
import pytest

from laconic.numeric import clustering
from laconic.numeric.clustering import cluster


def error_of(groups):
    """The squared distances of values from the weighted mean of their group."""
    return sum(float((w * (x - np.average(x, weights=w)) ** 2).sum()) for x, w in groups)


def least_error(values, weights, clusters):
    """The least error of all ways to part the values, whatever lies between which."""
    best = np.inf
    for labels in itertools.product(range(clusters), repeat=len(values)):
        chosen = np.array(labels)
        best = min(best, error_of((values[chosen == each], weights[chosen == each]) for each in set(labels)))
    return best


def least_in_order(values, weights, clusters):
    """The least error of all ways to part sorted values into runs."""
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    cuts = itertools.combinations(range(1, len(values)), clusters - 1)
    return min(error_of((values[a:b], weights[a:b]) for a, b in itertools.pairwise((0, *cut, len(values)))) for cut in cuts)


def squared_distance(values, weights, centres):
    return float((weights * ((values[:, None] - centres) ** 2).min(1)).sum())


def drawn(seed, count):
    """Values with ties and of very different sizes, and weights."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=count) * 10.0 ** generator.integers(-2, 3, count)
    values[generator.integers(0, count, count // 4)] = values[0]
    return values + generator.integers(-5, 6), generator.uniform(0.1, 5, count)


@pytest.mark.parametrize("seed", range(6))
def test_no_partition_at_all_has_a_smaller_error(seed):
    values, weights = drawn(seed, 6)
    for clusters, found in enumerate(cluster(values, 3, weights), start=1):
        assert found.error == pytest.approx(least_error(values, weights, clusters), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_no_partition_into_runs_has_a_smaller_error(seed):
    values, weights = drawn(100 + seed, 10)
    found = cluster(values, 20, weights)
    assert len(found) == len(set(values))
    for clusters, each in enumerate(found, start=1):
        assert each.error == pytest.approx(least_in_order(values, weights, clusters), rel=1e-9, abs=1e-9)
        assert each.error == pytest.approx(squared_distance(values, weights, each.centres), rel=1e-9, abs=1e-9)
        assert each.bound == each.error


def test_a_weight_of_three_is_a_value_three_times():
    values, weights = drawn(0, 30)
    weights = np.round(weights) + 1
    often = np.repeat(values, weights.astype(int))
    for one, other in zip(cluster(values, 6, weights), cluster(often, 6), strict=True):
        np.testing.assert_allclose(one.centres, other.centres)
        assert one.error == pytest.approx(other.error)


def test_shares_count_values_and_not_their_weights():
    [_, found] = cluster(np.array([1.0, 1.0, 1.0, 8.0]), 2, np.array([1.0, 1.0, 1.0, 50.0]))
    assert found.shares.tolist() == [0.75, 0.25]


def test_the_centres_of_as_many_clusters_as_values_are_the_values():
    values = np.array([3.0, -1.0, 3.0, 7.5])
    assert cluster(values, 9)[-1].centres.tolist() == [-1.0, 3.0, 7.5]
    assert cluster(np.full(5, 2.5), 4)[0].centres.tolist() == [2.5]


@pytest.mark.parametrize("seed", range(20))
def test_joined_cells_are_no_worse_than_told_and_no_better_than_possible(seed, monkeypatch):
    values, weights = drawn(200 + seed, 14)
    monkeypatch.setattr(clustering, "_CELLS", 8)
    monkeypatch.setattr(clustering, "_MOST_CELLS", 8)
    points = clustering._points(values, weights)
    joined = points.joined(8)
    for clusters, (_, within) in enumerate(clustering._best_starts(joined, 4), start=1):
        least = least_in_order(values, weights, clusters)
        assert least - 1e-9 <= within <= least + joined.excess + 1e-9
    for clusters, found in enumerate(cluster(values, 4, weights), start=1):
        assert found.bound - 1e-9 <= least_in_order(values, weights, clusters) <= found.error + 1e-9


@pytest.mark.parametrize("draw", ["normal", "laplace", "standard_cauchy"])
def test_of_many_values_the_error_is_within_a_thousandth_of_the_least(draw):
    values = getattr(np.random.default_rng(0), draw)(size=30_000).clip(-100, 100)
    exact = clustering._best_starts(clustering._points(values, None), 6)
    for found, (_, least) in zip(cluster(values, 6), exact, strict=True):
        assert found.bound <= least * (1 + 1e-9)
        assert least * (1 - 1e-9) <= found.error <= 1.001 * least
        assert found.error == pytest.approx(squared_distance(values, np.ones(len(values)), found.centres))


def test_sixteen_levels_of_a_gaussian_are_those_of_max():
    """J. Max, "Quantizing for Minimum Distortion", IRE Transactions on Information Theory 1960, table I."""
    normal = np.random.default_rng(0).normal(size=400_000)
    found = cluster(normal, 16)
    np.testing.assert_allclose(found[3].centres, [-1.510, -0.4528, 0.4528, 1.510], atol=0.02)
    assert found[3].error / len(normal) == pytest.approx(0.1175, rel=0.01)
    assert found[15].error / len(normal) == pytest.approx(0.009497, rel=0.01)
