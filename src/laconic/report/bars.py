"""Bars in pairs, before and after, from zero, with their values written behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from laconic.report.palette import AFTER, BEFORE, INK

if TYPE_CHECKING:
    import altair as alt

    from laconic.measure.latency import Interval

_NETWORKS = ("before", "after")
_MOST_LAYERS = 24  # more pairs than these are not read
_NAME_LENGTH = 26  # characters of a layer's name beside its bars


def pair(title: str, values: Sequence[float], text: Callable[[float], str], intervals: Sequence[Interval] = ()) -> alt.LayerChart:
    """Return one small chart of two bars; where given, a thin line shows the interval of each."""
    import altair as alt

    lows, highs = ([each.low for each in intervals], [each.high for each in intervals]) if intervals else (values, values)
    records = [
        {"network": network, "value": value, "text": text(value), "low": low, "high": high}
        for network, value, low, high in zip(_NETWORKS, values, lows, highs, strict=True)
    ]
    base = _chart(records).encode(y=alt.Y("network:N", sort=None, axis=_names()))
    bar = base.mark_bar(size=18).encode(x=_lengths(max(highs) * 1.45), color=_colours(legend=None))
    span = base.mark_rule(color=INK, strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
    label = base.mark_text(align="left", dx=5, color=INK, fontSize=11).encode(x="high:Q", text="text:N")
    return alt.LayerChart(layer=[bar, span, label] if intervals else [bar, label], title=title, width=205, height=60)


def pairs(title: str, rows: Sequence[tuple[str, float, float]], text: Callable[[float], str]) -> alt.LayerChart:
    """Return one pair of bars per row (name, before, after); of many rows the largest, which the title then says."""
    import altair as alt

    shown = largest(rows)
    if len(shown) < len(rows):
        title = f"{title} (the {len(shown)} largest of {len(rows)})"
    names = shortened([name for name, _, _ in shown])
    records = [
        {"name": name, "network": network, "value": value, "text": text(value)}
        for name, (_, *values) in zip(names, shown, strict=True)
        for network, value in zip(_NETWORKS, values, strict=True)
    ]
    base = _chart(records).encode(
        y=alt.Y("name:N", sort=None, axis=_names()),
        yOffset=alt.YOffset("network:N", sort=list(_NETWORKS)),
    )
    longest = max(value for _, *values in shown for value in values)
    bar = base.mark_bar().encode(x=_lengths(longest * 1.25), color=_colours(legend=alt.Legend()))
    label = base.mark_text(align="left", dx=4, fontSize=9, color=INK).encode(x="value:Q", text="text:N")
    return alt.LayerChart(layer=[bar, label], title=title, width=255, height=alt.Step(11))


def largest(rows: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Keep the rows that were largest before, in their order."""
    ranked = sorted(range(len(rows)), key=lambda index: -rows[index][1])
    return [rows[index] for index in sorted(ranked[:_MOST_LAYERS])]


def shortened(names: Sequence[str]) -> list[str]:
    """Cut long names at the front, where layers are alike, unless two would become one."""
    short = [name if len(name) <= _NAME_LENGTH else f"…{name[1 - _NAME_LENGTH :]}" for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)


def _chart(records: list[dict[str, Any]]) -> alt.Chart:
    import altair as alt

    return alt.Chart(alt.InlineData(values=records))


def _names() -> alt.Axis:
    import altair as alt

    return alt.Axis(title=None, domain=False, ticks=False, labelPadding=6, labelLimit=230)


def _lengths(room: float) -> alt.X:
    """Return a hidden axis from zero to `room`, which leaves place for the text behind the longest bar."""
    import altair as alt

    return alt.X("value:Q", axis=None, scale=alt.Scale(domain=[0, room or 1]))


def _colours(legend: alt.Legend | None) -> alt.Color:
    import altair as alt

    return alt.Color("network:N", scale=alt.Scale(domain=list(_NETWORKS), range=[BEFORE, AFTER]), legend=legend)
