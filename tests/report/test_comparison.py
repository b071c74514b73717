from dataclasses import replace

import pytest

from laconic.measure.latency import Interval
from laconic.receipt import Budget, Layer, Ratios, Receipt
from laconic.report.comparison import attempt_verdict, conditions, headline, limits, rows, score_of, short_recipe, unpaid, verdict


def change(receipt: Receipt, quantity: str) -> str:
    return next(row.change for row in rows(receipt) if row.quantity.startswith(quantity))


def test_the_headline_says_size_speed_loss_and_verdict_in_one_sentence(receipt):
    assert headline(receipt) == "3.9x smaller, 2.1x faster, 0.12 points lost on 10,000 test examples; budget met"


def test_the_headline_claims_nothing_that_was_not_measured(receipt):
    ratios = Ratios(smaller=1.0, faster=Interval(1.1, 0.9, 1.3), throughput=1.0)
    assert headline(replace(receipt, ratios=ratios)).startswith("not smaller, no faster, ")


def test_a_missed_budget_is_said_with_what_was_missed(receipt):
    missed = replace(receipt, met=False, missed=("1.7x faster, asked 2x", "0.9 points lost, asked 0.5"))
    assert verdict(missed) == "budget missed: 1.7x faster, asked 2x; 0.9 points lost, asked 0.5"


def test_without_a_budget_none_is_said_to_be_met(receipt):
    free = replace(receipt, budget=Budget())
    assert "met" not in verdict(free)
    assert limits(free) == ()


def test_rows_are_signed_and_worded_by_direction(receipt):
    assert change(receipt, "file") == "3.9x smaller"
    assert change(receipt, "accuracy, top-1") == "-0.12 points"
    assert change(receipt, "latency") == "2.1x faster (1.9-2.3)"
    assert change(receipt, "throughput") == "2.2x higher"


def test_an_absent_meter_is_said_and_a_present_one_is_compared(receipt):
    assert next(row for row in rows(receipt) if row.quantity.startswith("energy")).after == "no meter"
    metered = replace(receipt, before=replace(receipt.before, joules=0.02), after=replace(receipt.after, joules=0.005))
    assert change(metered, "energy") == "4.0x less"


def test_the_perplexity_of_a_language_model_is_a_row_and_a_classifier_has_none(receipt):
    assert not [row for row in rows(receipt) if row.quantity == "perplexity"]
    before, after = replace(receipt.before, perplexity=4.0), replace(receipt.after, perplexity=4.08)
    assert change(replace(receipt, before=before, after=after), "perplexity") == "+2.00 %"


def test_top5_has_no_row_where_it_was_not_measured(receipt):
    few = replace(receipt, after=replace(receipt.after, accuracy_top5=None))
    assert not [row for row in rows(few) if "top-5" in row.quantity]


def test_more_memory_is_called_more(receipt):
    assert change(replace(receipt, after=replace(receipt.after, peak_memory_bytes=182_600_000)), "peak") == "2.0x more"


@pytest.mark.parametrize(
    ("budget", "met"),
    [
        (Budget(max_drop=0.12), True),
        (Budget(max_drop=0.119), False),
        (Budget(smaller=3.91), True),
        (Budget(smaller=3.92), False),
        (Budget(faster=2.1), True),
        (Budget(faster=2.2), False),
        (Budget(max_bytes=283_166), True),
        (Budget(max_bytes=283_165), False),
        (Budget(max_latency_ms=0.59), True),
        (Budget(max_latency_ms=0.58), False),
    ],
)
def test_each_limit_is_met_up_to_and_including_what_was_asked(receipt, budget, met):
    (limit,) = limits(replace(receipt, budget=budget))
    assert limit.met is met


def test_a_narrow_miss_is_written_with_enough_digits_to_be_seen(receipt):
    close = replace(receipt, budget=Budget(smaller=4), ratios=replace(receipt.ratios, smaller=3.9996))
    (limit,) = limits(close)
    assert (limit.measured, limit.met) == ("3.9996x", False)


def test_only_the_attempt_with_the_receipts_recipe_is_called_delivered(receipt):
    assert [attempt_verdict(each, receipt).endswith("delivered") for each in receipt.attempts] == [False, True, False, False]


def test_an_empty_recipe_is_called_nothing():
    assert short_recipe([]) == "nothing"


def test_one_thread_is_singular(receipt):
    assert conditions(replace(receipt, threads=1)) == "onnxruntime 1.23.0, 1 thread"


def test_a_layer_whose_time_stayed_is_named_with_both_ratios(receipt):
    assert unpaid(receipt) == ("conv1: 2.0x fewer MACs, 1.11x faster",)


@pytest.mark.parametrize(
    ("macs", "seconds", "pays"),
    [
        (25, 0.4, True),  # 4x fewer must be 2.5x faster
        (25, 0.41, False),
        (25, 1.2, False),
        (100, 0.5, None),  # nothing went: int8 alone
        (0, 0.0, True),
        (25, None, None),
    ],
)
def test_a_layer_pays_when_half_of_what_went_shows_in_its_time(macs, seconds, pays):
    layer = Layer("conv", "conv2d", 9, 9, 9, 100, macs, 36, 36, seconds_before=1.0, seconds_after=seconds)
    assert layer.pays is pays


def test_outputs_that_are_scored_against_the_networks_own_have_cosines_in_place_of_accuracies(receipt):
    before, after = (
        replace(side, accuracy=cosine, lowest_cosine=cosine - 0.1) for side, cosine in ((receipt.before, 1.0), (receipt.after, 0.9876))
    )
    found = {row.quantity: (row.before, row.after) for row in rows(replace(receipt, before=before, after=after))}
    assert found["cosine with the network's own outputs"] == ("1.0000", "0.9876")
    assert found["its lowest"] == ("0.9000", "0.8876")
    assert "accuracy, top-1" not in found
    assert score_of(after) == "cosine 0.9876"
