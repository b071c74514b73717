import itertools

import numpy as np
import pytest

from laconic.numeric.allocation import allocate, hull, undominated


def enumerated(items, budget):
    """The least loss of all choices within the budget, by trying each."""
    sums = [np.sum([options[position] for options, position in zip(items, choice, strict=True)], axis=0) for choice in every(items)]
    return min((loss for cost, loss in sums if cost <= budget), default=None)


def every(items):
    return itertools.product(*[range(len(options)) for options in items])


def drawn(generator, items, options, costs, losses):
    """Random items; costs and losses of few values, so that there are ties, dominated options and options beside the hull."""
    sizes = generator.integers(1, options + 1, items)
    return [[(int(generator.integers(costs)), float(generator.integers(losses)) / 8) for _ in range(size)] for size in sizes]


@pytest.mark.parametrize("seed", range(150))
def test_the_loss_is_the_least_that_enumeration_finds(seed):
    generator = np.random.default_rng(seed)
    items = drawn(generator, 1 + seed % 6, 4, costs=3 + seed % 30, losses=40)
    budget = int(generator.integers(0, 10 * (1 + seed % 6)))
    found, least = allocate(items, budget), enumerated(items, budget)
    assert (found is None) == (least is None)
    if found is not None:
        chosen = [options[position] for options, position in zip(items, found.choice, strict=True)]
        assert sum(cost for cost, _ in chosen) == found.cost <= budget
        assert sum(loss for _, loss in chosen) == found.loss == least
        assert found.gap == 0


@pytest.mark.parametrize("seed", range(60))
def test_with_room_for_few_sums_the_bound_is_still_one(seed):
    generator = np.random.default_rng(seed)
    items = drawn(generator, 6, 4, costs=25, losses=200)
    budget = int(generator.integers(40, 90))
    found, least = allocate(items, budget, states=1), enumerated(items, budget)
    assert (found is None) == (least is None)
    if found is not None:
        assert found.cost <= budget
        assert found.bound <= least <= found.loss
        assert found.gap == found.loss - found.bound


def test_with_room_for_few_sums_a_missed_optimum_is_told():
    generator = np.random.default_rng(0)
    gaps = []
    for _ in range(60):
        items = drawn(generator, 6, 4, costs=25, losses=200)
        found, least = allocate(items, 60, states=1), enumerated(items, 60)
        gaps += [found.gap] if found is not None and found.loss > least else []
    assert gaps
    assert min(gaps) > 0


@pytest.mark.parametrize("layers", [20, 60, 150])
def test_hundreds_of_layers_with_costs_in_the_billions_are_solved_exactly(layers):
    generator = np.random.default_rng(layers)
    sizes, noise = generator.integers(10**4, 10**9, layers), 10 ** generator.uniform(-3, 1, layers)
    items = [[(int(size * bits), share * 4.0**-bits) for bits in (2, 3, 4, 5, 6, 8)] for size, share in zip(sizes, noise, strict=True)]
    budget = 4 * int(sizes.sum())
    found = allocate(items, budget)
    uniform = sum(options[2][1] for options in items)
    assert found.gap == 0
    assert found.cost <= budget
    assert found.loss < uniform
    assert found.loss >= lagrangian(items, budget) * (1 - 1e-9)
    for item, position in enumerate(found.choice):  # nothing that is left of the budget buys anything
        spare = budget - found.cost + items[item][position][0]
        assert all(cost > spare or loss >= items[item][position][1] for cost, loss in items[item])


def lagrangian(items, budget):
    """The largest of the bounds `sum min(loss + price * cost) - price * budget` over prices: no choice within the budget is below."""
    prices = np.logspace(-15, 0, 4000)
    relaxed = sum(np.min([loss + prices * cost for cost, loss in options], axis=0) for options in items)
    return float((relaxed - prices * budget).max())


def test_a_budget_that_all_can_have_gives_each_item_its_best():
    assert allocate([[(1, 4.0), (5, 1.0)], [(2, 3.0), (0, 7.0)]], 7).choice == (1, 0)


def test_a_budget_below_the_cheapest_has_no_allocation():
    assert allocate([[(3, 1.0), (2, 2.0)], [(2, 1.0)]], 3) is None
    assert allocate([[(3, 1.0), (2, 2.0)], [(2, 1.0)]], 4).choice == (1, 0)


def test_nothing_to_allocate_costs_nothing():
    assert allocate([], 0).choice == ()


@pytest.mark.parametrize("seed", range(20))
def test_the_hull_is_what_a_price_per_cost_picks(seed):
    generator = np.random.default_rng(seed)
    [options] = drawn(generator, 1, 12, costs=20, losses=99)
    prices = [0, *np.logspace(-4, 3, 3000)]
    picked = {min(options, key=lambda option, price=price: (option[1] + price * option[0], option[0])) for price in prices}
    assert picked == {options[position] for position in hull(options)}


@pytest.mark.parametrize("seed", range(20))
def test_what_is_left_out_is_dominated_and_what_is_kept_is_not(seed):
    [options] = drawn(np.random.default_rng(seed), 1, 12, costs=12, losses=60)
    kept = {options[position] for position in undominated(options)}
    for option in options:
        beaten = any(other != option and other[0] <= option[0] and other[1] <= option[1] for other in options)
        assert beaten == (option not in kept)
