import gc
import math
import time
from collections import Counter

import numpy as np
import pytest

from laconic.errors import LaconicError
from laconic.measure import Interval, differs, interleaved, latency, median_interval, ratio_interval
from laconic.measure.latency import order, outside


@pytest.mark.parametrize("calls", [1, 2, 3, 5])
def test_every_call_goes_equally_often_in_every_place(calls):
    places = Counter((call, place) for number in range(2 * calls) for place, call in enumerate(order(number, calls)))
    assert places == dict.fromkeys(((call, place) for call in range(calls) for place in range(calls)), 2)


def test_two_calls_go_there_and_back_each_after_an_untimed_one_of_its_own():
    log = []
    interleaved([lambda: log.append("a"), lambda: log.append("b")], seconds=0, least=4, warmup=0)
    assert "".join(log) == "aabbbbaabbaaaabb"


def test_times_belong_to_their_calls():
    times = interleaved([lambda: time.sleep(0.002), lambda: None], seconds=0, least=6)
    assert times.shape == (6, 2)
    assert times[:, 0].min() >= 0.002
    assert np.median(times[:, 1]) < 0.001


def test_rounds_stop_at_the_most_and_at_the_time():
    assert len(interleaved([lambda: None], seconds=60, most=40)) == 40
    assert len(interleaved([lambda: time.sleep(0.01)], seconds=0.1, least=2, most=1000, warmup=0)) <= 11


def test_warmup_is_called_and_not_counted():
    log = []
    assert len(interleaved([lambda: log.append(0)], seconds=0, least=3, warmup=4)) == 3
    assert len(log) == 4 + 2 * 3


class Clock:
    """A machine where a call takes no time, looking at the clock does, and another thread of the process spins until `spinning`."""

    def __init__(self, spinning):
        self.now, self.spinning = 0.0, spinning

    def perf_counter(self):
        self.now += 0.0001
        return self.now

    def thread_time(self):
        return self.now

    def process_time(self):
        return self.now + min(self.now, self.spinning)


@pytest.mark.parametrize(("spinning", "earliest", "latest"), [(0.0, 0.0, 0.01), (0.035, 0.035, 0.045), (math.inf, 0.1, 0.5)])
def test_a_call_waits_until_the_threads_of_the_one_before_rest_but_not_for_ever(spinning, earliest, latest, monkeypatch):
    clock, called = Clock(spinning), []
    monkeypatch.setattr(latency, "time", clock)
    interleaved([lambda: called.append(clock.now)], seconds=0, least=1, warmup=0)
    assert earliest <= called[0] <= latest
    assert called[1] - called[0] < 0.001


def test_garbage_is_not_collected_meanwhile_and_again_afterwards():
    seen = []
    interleaved([lambda: seen.append(gc.isenabled())], seconds=0, least=3, warmup=0)
    assert not any(seen)
    assert gc.isenabled()


def test_garbage_collection_is_on_again_after_a_call_that_fails():
    with pytest.raises(ZeroDivisionError):
        interleaved([lambda: 1 / 0], warmup=0)
    assert gc.isenabled()


@pytest.mark.parametrize("count", [6, 7, 30, 101, 2000])
def test_the_interval_is_the_narrowest_that_the_binomial_distribution_allows(count):
    def missed(left_out):
        return 2 * sum(math.comb(count, i) for i in range(left_out + 1)) / 2**count if count < 1000 else exact(count, left_out)

    def exact(count, left_out):
        logs = [math.lgamma(count + 1) - math.lgamma(i + 1) - math.lgamma(count - i + 1) - count * math.log(2) for i in range(left_out + 1)]
        return 2 * sum(map(math.exp, logs))

    assert missed(outside(count)) <= 0.05 < missed(outside(count) + 1)


def test_the_interval_holds_the_median_of_a_skewed_distribution_as_often_as_it_says():
    draw = np.random.default_rng(0)
    found = [median_interval(draw.exponential(size=40)) for _ in range(2000)]
    held = np.mean([interval.low <= math.log(2) <= interval.high for interval in found])
    assert 0.95 - 0.01 <= held <= 0.99


def test_the_interval_is_made_of_observations_in_order():
    assert median_interval(np.array([3.0, 1, 2, 6, 5, 4])) == Interval(3.5, 1, 6)


def test_five_observations_bound_no_median():
    with pytest.raises(LaconicError, match="at least 6 observations; there are 5"):
        median_interval(np.ones(5))


def test_pairs_cancel_what_the_machine_did_to_both():
    load = np.random.default_rng(0).uniform(1, 10, size=100)
    ratio = ratio_interval(3 * load, 2 * load)
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((1.5, 1.5, 1.5))
    assert differs(ratio)


def test_only_an_interval_without_one_is_a_difference():
    assert differs(Interval(1.2, 1.1, 1.3))
    assert differs(Interval(0.8, 0.7, 0.9))
    assert not differs(Interval(1.1, 1.0, 1.3))
