import pytest

from laconic.measure.latency import Interval
from laconic.report.units import bytes_text, count_text, faster_text, gain_text, latency_text, points_text, ratio_text, seconds_text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_949, "999.9 kB"), (999_950, "1.00 MB")])
def test_bytes_change_their_prefix_where_the_rounded_number_would_have_four_digits(count, text):
    assert bytes_text(count) == text


def test_a_count_has_no_unit_and_no_trailing_space():
    assert count_text(7) == "7"


@pytest.mark.parametrize("faster", [Interval(1.3, 0.9, 1.7), Interval(0.8, 0.6, 1.0), Interval(1.2, 1.0, 1.4)])
def test_an_interval_that_contains_one_is_no_difference_whatever_its_median(faster):
    assert faster_text(faster).startswith("no difference")


def test_slower_is_said_as_slower_and_its_interval_turns_with_it():
    assert faster_text(Interval(0.25, 0.2, 0.5)) == "4.0x slower (2.0-5.0)"


def test_an_interval_just_above_one_is_written_so_that_it_excludes_one():
    assert faster_text(Interval(1.9, 1.02, 2.8)) == "1.90x faster (1.02-2.80)"


def test_a_file_that_grew_is_called_larger():
    assert ratio_text(0.8, "smaller", "larger") == "1.25x larger"


@pytest.mark.parametrize("drop", [0.12, -0.12])
def test_a_drop_and_a_gain_have_opposite_words_and_signs(drop):
    assert points_text(drop).endswith("lost" if drop > 0 else "gained")
    assert gain_text(-drop).startswith("-" if drop > 0 else "+")


def test_a_tiny_loss_is_not_called_none():
    assert points_text(0.002) != points_text(0)


def test_a_latency_of_microseconds_still_shows_three_digits():
    assert latency_text(Interval(2.14e-5, 2.11e-5, 2.2e-5)) == "0.0214 ms (0.0211-0.0220)"


def test_long_times_are_in_minutes_and_hours():
    assert [seconds_text(119), seconds_text(121), seconds_text(7201)] == ["119.0 s", "2.0 min", "2.0 h"]
