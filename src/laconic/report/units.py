"""Numbers as people read them: decimal units, few digits, and words for gains and losses."""

import math

from laconic.measure.latency import Interval


def bytes_text(count: float) -> str:
    """Return a number of bytes in decimal units.

    >>> bytes_text(1_107_200), bytes_text(283_166), bytes_text(999)
    ('1.11 MB', '283.2 kB', '999 B')
    """
    number, prefix = _scaled(count)
    return f"{number} {prefix}B"


def count_text(count: float) -> str:
    """Return a number of things (parameters, multiply-accumulates) in thousands, millions or billions.

    >>> count_text(271_800), count_text(41_000_000), count_text(999_999), count_text(12)
    ('271.8 k', '41.0 M', '1.00 M', '12')
    """
    number, prefix = _scaled(count)
    return f"{number} {prefix}".rstrip()


def rate_text(per_second: float) -> str:
    """Return a number of examples per second.

    >>> rate_text(15_432.1), rate_text(3.14159)
    ('15.4 k/s', '3.14/s')
    """
    return f"{count_text(per_second) if per_second >= 1000 else _number(per_second)}/s"


def seconds_text(seconds: float | None) -> str:
    """Return a duration in the unit that suits it.

    >>> seconds_text(0.000_02), seconds_text(0.001_2), seconds_text(48.25), seconds_text(754), seconds_text(10_800), seconds_text(None)
    ('20.0 us', '1.20 ms', '48.2 s', '12.6 min', '3.0 h', '-')
    """
    if seconds is None:
        return "-"
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1, 1e3, "ms"), (120, 1, "s")):
        if seconds < limit:
            return f"{_number(seconds * factor)} {unit}"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def milliseconds_text(seconds: float) -> str:
    """Return a latency in milliseconds.

    >>> milliseconds_text(0.00235), milliseconds_text(0.0000214)
    ('2.35 ms', '0.0214 ms')
    """
    return f"{_number(seconds * 1e3)} ms"


def latency_text(seconds: Interval) -> str:
    """Return a latency with its 95 % interval, in milliseconds.

    >>> latency_text(Interval(0.00235, 0.00231, 0.0024)), latency_text(Interval(0.0000214, 0.0000211, 0.000022))
    ('2.35 ms (2.31-2.40)', '0.0214 ms (0.0211-0.0220)')
    """
    places = _places(seconds.median * 1e3)
    median, low, high = (f"{value * 1e3:.{places}f}" for value in (seconds.median, seconds.low, seconds.high))
    return f"{median} ms ({low}-{high})"


def joules_text(joules: float | None) -> str:
    """Return an energy, or say that nothing here could measure it.

    >>> joules_text(0.0123), joules_text(None)
    ('12.3 mJ', 'no meter')
    """
    if joules is None:
        return "no meter"
    return f"{_number(joules * 1e3)} mJ" if joules < 1 else f"{_number(joules)} J"


def percent_text(share: float | None) -> str:
    """Return a share in [0, 1] in percent.

    >>> percent_text(0.91234), percent_text(None)
    ('91.23 %', '-')
    """
    return "-" if share is None else f"{share * 100:.2f} %"


def score_text(score: float) -> str:
    """Return a validation score in words: a share, or below 0 the log-likelihood of a language model's token, in nats.

    >>> score_text(0.91234), score_text(-1.5)
    ('91.23 %', 'perplexity 4.482')
    """
    return percent_text(score) if score >= 0 else f"perplexity {math.exp(-score):.4g}"


def capital(text: str) -> str:
    """Begin a text with a capital letter and leave the rest as it is.

    >>> capital("mean IoU")
    'Mean IoU'
    """
    return text[:1].upper() + text[1:]


def points_text(drop: float) -> str:
    """Return a drop of accuracy (percentage points; negative: gained) in words.

    >>> points_text(0.12), points_text(-0.123), points_text(0.0), points_text(0.002)
    ('0.12 points lost', '0.12 points gained', 'no points lost', 'under 0.01 points lost')
    """
    if abs(drop) < 1e-9:
        return "no points lost"
    amount = f"{abs(drop):.2f}" if abs(drop) >= 0.005 else "under 0.01"
    return f"{amount} points {'lost' if drop > 0 else 'gained'}"


def gain_text(gain: float | None) -> str:
    """Return a change of accuracy (percentage points; negative: lost) with its sign.

    >>> gain_text(-0.12), gain_text(0.5), gain_text(0.0), gain_text(None)
    ('-0.12 points', '+0.50 points', 'no change', '-')
    """
    if gain is None:
        return "-"
    return f"{gain:+.2f} points" if abs(gain) >= 0.005 else "no change"


def times_text(ratio: float) -> str:
    """Return a ratio of at least 1 with as many digits as tell it from 1.

    >>> times_text(3.91), times_text(1.043), times_text(49.2), times_text(128.4)
    ('3.9x', '1.04x', '49.2x', '128x')
    """
    return f"{ratio:.{_decimals(ratio)}f}x"


def ratio_text(ratio: float, better: str, worse: str) -> str:
    """Return before / after in words.

    >>> ratio_text(3.91, "smaller", "larger"), ratio_text(0.5, "smaller", "larger"), ratio_text(1.002, "smaller", "larger")
    ('3.9x smaller', '2.0x larger', 'no change')
    """
    if ratio <= 0:
        return "-"
    if 1 / 1.005 < ratio < 1.005:
        return "no change"
    return f"{times_text(ratio)} {better}" if ratio > 1 else f"{times_text(1 / ratio)} {worse}"


def faster_text(faster: Interval) -> str:
    """Return latency before / after in words; an interval that contains 1 shows no difference.

    >>> faster_text(Interval(2.1, 1.9, 2.3)), faster_text(Interval(0.5, 0.4, 0.8)), faster_text(Interval(1.02, 0.97, 1.08))
    ('2.1x faster (1.9-2.3)', '2.00x slower (1.25-2.50)', 'no difference (0.97-1.08)')
    """
    if faster.low <= 1 <= faster.high:
        return f"no difference ({faster.low:.2f}-{faster.high:.2f})"
    if faster.median < 1:
        return _times_faster(Interval(1 / faster.median, 1 / faster.high, 1 / faster.low), "slower")
    return _times_faster(faster, "faster")


def _times_faster(ratio: Interval, word: str) -> str:
    """Write an interval of ratios above 1; its low end decides how many decimals are needed."""
    decimals = _decimals(ratio.low)
    return f"{ratio.median:.{decimals}f}x {word} ({ratio.low:.{decimals}f}-{ratio.high:.{decimals}f})"


def _decimals(ratio: float) -> int:
    return 2 if ratio < 1.5 else 1 if ratio < 100 else 0


def _number(value: float) -> str:
    """Write three digits, and one decimal from 10 on.

    >>> _number(9.994), _number(9.996), _number(123.45), _number(0.0214), _number(0)
    ('9.99', '10.0', '123.5', '0.0214', '0.00')
    """
    return f"{value:.{_places(value)}f}"


def _places(value: float) -> int:
    """Return how many decimals show three digits of `value`; 1 from 10 on."""
    if round(value, 2) >= 10:
        return 1
    return 2 if round(value, 2) >= 1 or value <= 0 else 2 - math.floor(math.log10(value))


def _scaled(value: float) -> tuple[str, str]:
    """Split a number into digits and a decimal prefix."""
    for prefix in ("", "k", "M", "G"):
        if round(value, 1 if prefix else 0) < 1000:
            return (_number(value) if prefix else f"{value:.0f}"), prefix
        value /= 1000
    return _number(value), "T"
