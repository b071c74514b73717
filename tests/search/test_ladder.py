from dataclasses import replace
from math import log2
from types import SimpleNamespace

import pytest

from laconic.errors import LaconicError
from laconic.receipt import Attempt, Budget
from laconic.recipe import apply, check_needs, parse
from laconic.search import check_budget, ladder
from laconic.search.ladder import BOTH, FILTERS, INTEGERS, LAYERS, PACKINGS, RANKS, STRUCTURES, Rung, packings, structural
from laconic.search.shrink import _order, climb, shortfall
from laconic.tune import FineTune

BUDGETS = {
    "ratios": Budget(max_drop=0.5, smaller=3, faster=1.5),
    "bytes": Budget(max_bytes=1000),
    "latency": Budget(max_latency_ms=2),
    "both": Budget(max_bytes=1000, smaller=2),
    "no ratio": Budget(max_bytes=1000, smaller=1),
    "drop": Budget(max_drop=1),
    "nothing": Budget(),
}


def trains(rung):
    return any(getattr(step, "trains", False) for step in parse(rung.recipe)) if rung.recipe else False


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("trainable", [False, True])
def test_every_rung_is_a_recipe_with_a_name_of_its_own(name, trainable):
    rungs = ladder(BUDGETS[name], trainable)
    assert len({rung.name for rung in rungs}) == len({str(rung.recipe) for rung in rungs}) == len(rungs) > 0
    for rung in rungs:
        assert not rung.recipe or parse(rung.recipe)


@pytest.mark.parametrize("name", BUDGETS)
def test_cheaper_rungs_come_first(name):
    """Nothing, then steps without training, then with it; and without bias correction before with it."""
    costs = []
    for rung in ladder(BUDGETS[name], trainable=True):
        steps = parse(rung.recipe) if rung.recipe else []
        fitted = sum((step.ranges != "min-max") + (step.weight_ranges != "min-max") + step.bias_correction for step in steps[:1])
        costs.append((trains(rung), len(steps), fitted))
    assert costs == sorted(costs)
    assert len(set(costs)) == len(costs)


@pytest.mark.parametrize("name", BUDGETS)
def test_the_float_network_is_tried_only_where_it_could_do(name):
    """As it came it is once as small and as fast as itself; only absolute limits may be met without changing it."""
    budget = BUDGETS[name]
    absolute = budget.max_bytes is not None or budget.max_latency_ms is not None
    could = absolute and all(ratio is None or ratio <= 1 for ratio in (budget.smaller, budget.faster))
    rungs = ladder(budget, trainable=True)
    assert (not rungs[0].recipe) == could
    assert all(rung.recipe for rung in rungs[1:])


def test_rungs_train_only_where_there_is_training_data(untrained_context):
    assert any(trains(rung) for rung in ladder(BUDGETS["ratios"], trainable=True))
    rungs = ladder(BUDGETS["ratios"], trainable=False)
    assert not any(trains(rung) for rung in rungs)
    for rung in rungs:
        check_needs(parse(rung.recipe), untrained_context)


def test_the_epochs_reach_every_training():
    steps = [step for rung in ladder(BUDGETS["ratios"], trainable=True, epochs=7) for step in parse(rung.recipe)]
    assert {step.epochs for step in steps if getattr(step, "trains", False)} == {7}


def test_every_rung_works_on_the_digits_and_loses_little(program, context):
    from laconic.program import clone

    for rung in ladder(BUDGETS["ratios"], trainable=True, epochs=1):
        done = apply(clone(program), parse(rung.recipe), context)
        assert done.journal[-1].score_after > done.journal[0].score_before - 0.02
        assert done.journal[-1].bytes_after < done.journal[0].bytes_before / 3


@pytest.mark.parametrize("option", ["smaller", "faster", "max_bytes", "max_latency_ms"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_of_nothing_is_refused(option, value):
    with pytest.raises(LaconicError, match=f"--{option.replace('_', '-')} must be above 0; got {value}"):
        check_budget(Budget(**{option: value}))


@pytest.mark.parametrize("value", [-0.1, 100.1])
def test_a_drop_beyond_all_is_refused(value):
    with pytest.raises(LaconicError, match=f"--max-drop is in percentage points, from 0 to 100; got {value}"):
        check_budget(Budget(max_drop=value))


@pytest.mark.parametrize(
    "budget", [Budget(max_drop=0), Budget(max_drop=100), Budget(smaller=0.5), BUDGETS["ratios"], BUDGETS["bytes"]], ids=str
)
def test_a_budget_that_could_be_met_is_taken(budget):
    check_budget(budget)


def test_fine_tuning_is_a_step_with_a_mark():
    assert FineTune.trains


# Where integers alone do not reach the size or the speed


def attempt(smaller=3.6, faster=2.0, drop=0.1, missed=("2x faster, at least 4x asked",)):
    return Attempt("int8", [], drop, smaller, faster, 1000, 0.5, tuple(missed))


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize(
    ("budget", "first", "left"),
    [
        (Budget(faster=4), LAYERS, {"macs": 0.5}),
        (Budget(max_latency_ms=0.25), LAYERS, {"macs": 0.5}),
        (Budget(smaller=7.2), FILTERS, {"bytes": 0.5}),
        (Budget(max_bytes=500), FILTERS, {"bytes": 0.5}),
        (Budget(smaller=4, faster=8), LAYERS, {"macs": 0.25}),
    ],
)
def test_structures_go_to_the_share_that_is_missing(budget, first, left, trainable):
    rungs = structural(budget, attempt(), trainable)
    assert rungs[0].kind == (first if trainable else RANKS)
    assert {rung.kind for rung in rungs} == {LAYERS, FILTERS, RANKS, BOTH}
    assert {key: next(iter(rungs[0].recipe[0].values()))[key] for key in left} == left
    for rung in rungs:
        assert parse(rung.recipe)
        assert trains(rung) == trainable
    assert len({rung.name for rung in rungs}) == len(rungs)


def test_filters_and_ranks_share_what_is_to_go():
    for rung in structural(Budget(smaller=7.2), attempt(), trainable=False):
        if rung.kind == BOTH:
            filters, mixed, _ = parse(rung.recipe)
            assert filters.bytes == mixed.bytes
            assert filters.bytes * mixed.bytes == pytest.approx(float(rung.name.split()[4]) / 100, rel=0.01)


def test_no_structure_goes_where_only_accuracy_is_missing():
    assert not structural(Budget(max_drop=0.1, smaller=3, faster=1.5), attempt(), True)


def climbed(outcomes, budget, kinds):
    """Which rungs were tried, by position, when each has the outcome (drop, missed) that is given for it."""
    rungs = [Rung(str(position), [{"quantize.Static": {}}], kind) for position, kind in enumerate(kinds)]
    tried = []

    def attempt_at(rung):
        tried.append(int(rung.name))
        drop, missed = outcomes[int(rung.name)]
        return SimpleNamespace(attempt=attempt(drop=drop, missed=missed))

    climb(rungs, attempt_at, budget)
    return tried


def test_integer_rungs_are_left_out_when_speed_is_what_is_missing():
    assert climbed([(0.0, ["slow"]), (0.0, []), (0.0, [])], Budget(max_drop=1, faster=4), [INTEGERS, INTEGERS, LAYERS]) == [0, 2]


def test_integer_rungs_go_on_when_only_accuracy_is_missing():
    assert climbed([(2.0, ["lost"]), (0.5, [])], Budget(max_drop=1, faster=1), [INTEGERS, INTEGERS]) == [0, 1]


def test_a_kind_of_structure_that_lost_too_much_is_not_taken_further():
    outcomes = [(2.0, ["lost", "slow"]), (0.0, []), (0.0, ["slow"]), (0.0, [])]
    assert climbed(outcomes, Budget(max_drop=1, faster=4), [LAYERS, LAYERS, FILTERS, FILTERS]) == [0, 2, 3]


def test_rungs_that_do_not_apply_are_passed_over():
    assert climb([Rung("0", [], LAYERS), Rung("1", [], FILTERS)], lambda rung: None, Budget()) == []


# Before training


def climbed_by_name(outcomes, budget, rungs):
    """Which rungs were tried, by name, when each has the outcome (drop, missed) that is given for it; None: it does not apply."""
    tried = []

    def attempt_at(rung):
        tried.append(rung.name)
        if outcomes[rung.name] is None:
            return None
        drop, missed = outcomes[rung.name]
        faster = {"slow": 2.0, "slower": 1.0}.get(missed[0] if missed else "", 4.0)
        return SimpleNamespace(name=rung.name, attempt=attempt(drop=drop, missed=missed, faster=faster))

    found = climb(rungs, attempt_at, budget)
    assert [each.name for each in found] == [name for name in tried if outcomes[name]]
    return tried


def training(*names, kind=LAYERS):
    return [Rung(name, [{"quantize.Static": {}}], kind, Rung(f"{name}, bare", [{"quantize.Static": {}}], kind)) for name in names]


BUDGET = Budget(max_drop=1, faster=4)


def test_what_is_too_slow_before_training_is_not_trained():
    outcomes = {"0, bare": (30.0, ["slow", "lost"]), "1, bare": (40.0, ["lost"]), "1": (0.5, [])}
    assert climbed_by_name(outcomes, BUDGET, training("0", "1", "2")) == ["0, bare", "1, bare", "1"]


def test_what_is_good_enough_before_training_is_not_trained():
    assert climbed_by_name({"0, bare": (0.5, [])}, BUDGET, training("0", "1")) == ["0, bare"]


def test_a_kind_that_loses_too_much_after_training_is_not_taken_further():
    outcomes = {"0, bare": (30.0, ["lost"]), "0": (2.0, ["lost"]), "2, bare": (50.0, ["lost"]), "2": (1.5, ["lost"])}
    assert climbed_by_name(outcomes, BUDGET, [*training("0", "1"), *training("2", kind=FILTERS)]) == ["0, bare", "0", "2, bare", "2"]


def test_where_all_are_too_slow_the_nearest_is_trained():
    outcomes = {"0, bare": (30.0, ["slower", "lost"]), "1, bare": (40.0, ["slow", "lost"]), "1": (3.0, ["slow", "lost"])}
    assert climbed_by_name(outcomes, BUDGET, training("0", "1")) == ["0, bare", "1, bare", "1"]


def test_what_does_not_apply_before_training_is_not_trained():
    assert climbed_by_name({"0, bare": None, "1, bare": (0.1, [])}, BUDGET, training("0", "1")) == ["0, bare", "1, bare"]


@pytest.mark.parametrize("budget", [Budget(faster=4), Budget(smaller=7.2)], ids=str)
def test_structures_are_measured_by_the_same_steps_without_training(budget):
    for rung in structural(budget, attempt(), trainable=True):
        assert [step for step in rung.recipe if "distill.Response" not in step] == rung.untrained.recipe
        assert not trains(rung.untrained)
    assert all(rung.untrained is None for rung in structural(budget, attempt(), trainable=False))


# Which attempt is delivered where none meets the budget


def test_a_loss_against_a_control_counts_less_than_what_is_certain():
    slow = attempt(drop=0.1, faster=3.9)
    bound = replace(attempt(drop=9.0, faster=4.1, missed=("lost",)), control=0.9)
    lost = replace(bound, control=None)
    assert min([slow, bound], key=lambda each: shortfall(each, BUDGET)) is bound
    assert min([slow, lost], key=lambda each: shortfall(each, BUDGET)) is slow
    met = attempt(drop=0.1, faster=4.1, missed=())
    assert min([bound, met], key=lambda each: shortfall(each, BUDGET)) is met
    less = replace(bound, drop_points=8.0)
    assert min([bound, less], key=lambda each: shortfall(each, BUDGET)) is less


# Packed files

WHOLE, ENTRIES = 1_724_000, 430_500


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize(("budget", "size"), [(Budget(smaller=40), 43_100), (Budget(smaller=10, max_bytes=50_000), 50_000)])
def test_packed_rungs_end_in_files_of_the_size_that_is_asked_for(budget, size, trainable):
    rungs = packings(budget, WHOLE, ENTRIES, trainable, epochs=5)
    assert {(rung.kind, rung.max_bytes) for rung in rungs} == {(PACKINGS, size)}
    assert not rungs[0].recipe
    assert [trains(rung) for rung in rungs] == [False, *([True] * (len(rungs) - 1))]
    assert (len(rungs) > 1) == trainable
    for rung in rungs[1:]:
        pruning, distilling = parse(rung.recipe)
        assert distilling.epochs == 20
        assert 0 < 8 * size / ENTRIES - entropy(pruning.sparsity) < 7 * (1 - pruning.sparsity)


def entropy(share):
    return -share * log2(share) - (1 - share) * log2(1 - share)


@pytest.mark.parametrize("budget", [Budget(smaller=40, faster=1.5), Budget(max_drop=1), Budget(smaller=1), Budget(max_bytes=WHOLE)])
def test_nothing_is_packed_where_more_speed_or_no_less_size_is_asked_for(budget):
    assert not packings(budget, WHOLE, ENTRIES, trainable=True)


@pytest.mark.parametrize(
    ("runtime", "smaller", "order"),
    [
        ("onnxruntime", 40, (PACKINGS, INTEGERS, STRUCTURES)),
        ("fastest", 4, (INTEGERS, STRUCTURES, PACKINGS)),
        ("lac", 4, (PACKINGS, INTEGERS)),
    ],
)
def test_packed_files_come_first_only_where_integers_come_nowhere_near(runtime, smaller, order):
    assert _order(runtime, packings(Budget(smaller=smaller), WHOLE, ENTRIES, True), WHOLE) == order


def test_packed_rungs_go_on_when_only_accuracy_is_missing_and_stop_when_speed_is():
    assert climbed([(2.0, ["lost"]), (0.5, [])], Budget(max_drop=1), [PACKINGS, PACKINGS]) == [0, 1]
    assert climbed([(2.0, ["slow", "lost"]), (0.5, [])], Budget(max_drop=1, max_latency_ms=1), [PACKINGS, PACKINGS]) == [0]
