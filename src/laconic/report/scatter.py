"""The trade-off: what each attempt costs against the accuracy that it lost, with the limits of the budget."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from laconic.report.palette import AFTER, BEFORE, INK, LIMIT, MISSED

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair as alt

_COLOURS = {"before": BEFORE, "meets": AFTER, "misses": MISSED}


@dataclass(frozen=True)
class Point:
    """One network in the trade-off."""

    cost: float  # bytes or milliseconds
    drop: float  # percentage points of validation accuracy
    label: str
    result: str  # before, meets or misses


def scatter(title: str, unit: str, points: Sequence[Point], most_cost: float | None, most_drop: float | None) -> alt.LayerChart:
    """Return cost (logarithmic) against points lost; down and to the left is better, dashed rules are limits."""
    import altair as alt

    base = alt.Chart(alt.InlineData(values=[asdict(point) for point in points])).encode(
        x=_cost(f"{title} ({unit})", [point.cost for point in points] + ([most_cost] if most_cost else [])),
        y=alt.Y("drop:Q", title="validation accuracy lost (points)", scale=alt.Scale(padding=14), axis=alt.Axis(tickCount=6)),
    )
    colours = alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values()))
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(color=alt.Color("result:N", scale=colours))
    labels = base.mark_text(dy=-12, fontSize=11, color=INK).encode(text="label:N")
    rules = [_rule(axis, limit) for axis, limit in (("x", most_cost), ("y", most_drop)) if limit is not None]
    return alt.LayerChart(layer=[*rules, dots, labels], title=f"{title} and accuracy", width=310, height=220)


def ticks(low: float, high: float) -> list[float]:
    """Return the steps 1, 2, 5 of every decade that `low` and `high` (both above zero) reach.

    >>> ticks(0.3, 4)
    [0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
    """
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [float(f"{step}e{decade}") for decade in decades for step in (1, 2, 5)]


def _cost(title: str, costs: Sequence[float]) -> alt.X:
    """Return a logarithmic axis over `costs`; bytes get prefixes, milliseconds below 1 stay plain numbers."""
    import altair as alt

    axis = alt.Axis(format="~s" if min(costs) >= 1 else "~g", values=ticks(min(costs), max(costs)), labelOverlap=True)
    return alt.X("cost:Q", title=title, scale=alt.Scale(type="log", nice=False, padding=14), axis=axis)


def _rule(axis: str, limit: float) -> alt.Chart:
    """Return a dashed line at a limit of the budget."""
    import altair as alt

    line = alt.Chart(alt.InlineData(values=[{"limit": limit}])).encode(**{axis: "limit:Q"})
    rule: alt.Chart = line.mark_rule(color=LIMIT, strokeDash=[4, 3], strokeWidth=1.2)
    return rule
