"""Latency: calls timed in turns, and intervals that assume nothing about how times are distributed.

Source of the interval: H. A. David, H. N. Nagaraja, "Order Statistics", 3rd ed., 2003, section 7.1: the number of observations
below the median is binomial with probability 1/2.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laconic.errors import LaconicError

_WINDOW = 0.001  # seconds in which it is seen whether other threads rest
_BUSY = 0.2  # share of a processor; one thread that spins takes a whole one
_LONGEST_REST = 0.2  # seconds


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % confidence interval."""

    median: float
    low: float
    high: float


def interleaved(
    calls: Sequence[Callable[[], object]], seconds: float = 2.0, least: int = 30, most: int = 2000, warmup: int = 3
) -> NDArray[np.float64]:
    """Time every call once per round, so that whatever else the machine does meets all of them alike.

    Each timed call follows an untimed one of its own: the candidate before it has left the caches full of its weights. Before that its
    threads come to rest: those of ONNX Runtime 1.32 spin for 35 ms after a call (measured), on processors that the next candidate needs.

    Args:
        calls: the candidates.
        seconds: rounds are added until this much time has passed ...
        least: ... and there are at least so many,
        most: but no more than so many.
        warmup: rounds before the first that counts.

    Returns:
        Seconds per call, of shape (rounds, calls). Garbage is not collected meanwhile.
    """
    for call in list(calls) * warmup:
        call()
    rounds: list[list[float]] = []
    with _no_garbage_collection():
        end = time.perf_counter() + seconds
        while len(rounds) < least or (time.perf_counter() < end and len(rounds) < most):
            rounds.append(_round(calls, order(len(rounds), len(calls))))
    return np.array(rounds)


def order(round_number: int, calls: int) -> list[int]:
    """Return the order of a round: every second one is backwards, and they rotate, so that each call goes equally often in each place.

    >>> [order(number, 3) for number in range(4)]
    [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]]
    """
    turn, backwards = divmod(round_number, 2)
    forwards = [(turn + place) % calls for place in range(calls)]
    return forwards[::-1] if backwards else forwards


def median_interval(times: NDArray[Any]) -> Interval:
    """Return the median of independent observations with its distribution-free interval of at least 95 % confidence.

    Args:
        times: 1-d, in any unit.

    Raises:
        LaconicError: fewer than 6 observations, of which no two bound the median with that confidence.
    """
    ordered = np.sort(np.asarray(times, dtype=np.float64))
    below = outside(len(ordered))
    return Interval(float(np.median(ordered)), float(ordered[below]), float(ordered[-1 - below]))


def ratio_interval(first: NDArray[Any], second: NDArray[Any]) -> Interval:
    """Return how many times as long `first` took as `second`, from times of the same rounds: the median of their paired ratios."""
    return median_interval(np.asarray(first) / np.asarray(second))


def differs(ratio: Interval) -> bool:
    """Tell whether a ratio is a real difference: 1 lies outside its interval."""
    return not ratio.low <= 1.0 <= ratio.high


def outside(count: int) -> int:
    """Return how many of `count` ordered observations may be left out at each end of a 95 % interval of the median.

    The interval from the k-th smallest to the k-th largest misses the median when fewer than k observations lie on one side of it;
    this happens with probability `2 * sum(comb(count, i) for i < k) / 2**count`, to be at most 1/20. Exact, in whole numbers.

    >>> outside(6), outside(30), outside(100)
    (0, 9, 39)
    """
    k, ways = 0, 1  # ways: sum of comb(count, i) for i <= k
    term = 1
    while 40 * ways <= 2**count:
        k += 1
        term = term * (count - k + 1) // k
        ways += term
    if k == 0:
        raise LaconicError(f"a 95 % interval of a median needs at least 6 observations; there are {count}")
    return k - 1


def _round(calls: Sequence[Callable[[], object]], places: list[int]) -> list[float]:
    """Time each call once, in the order of `places`; return the seconds in the order of `calls`."""
    seconds = [0.0] * len(calls)
    for place in places:
        _rest()
        calls[place]()
        start = time.perf_counter()
        calls[place]()
        seconds[place] = time.perf_counter() - start
    return seconds


def _rest() -> None:
    """Wait until no other thread of this process takes processor time, but not for long: some may never stop.

    Busy, not asleep: on a shared machine the next call would run at the end of the time that a thread is given when it wakes.
    """
    give_up = time.perf_counter() + _LONGEST_REST
    while time.perf_counter() < give_up:
        start, used = time.perf_counter(), _used_by_others()
        while time.perf_counter() - start < _WINDOW:
            pass
        if _used_by_others() - used < _BUSY * _WINDOW:
            return


def _used_by_others() -> float:
    return time.process_time() - time.thread_time()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
