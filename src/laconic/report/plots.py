"""Charts of a receipt, drawn without a browser and without a network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from laconic.files import write_bytes
from laconic.receipt import Layer, Receipt
from laconic.report.bars import pair, pairs
from laconic.report.comparison import scored_by
from laconic.report.palette import FAINT, INK
from laconic.report.scatter import Point, scatter
from laconic.report.units import bytes_text, capital, count_text, milliseconds_text, percent_text

if TYPE_CHECKING:
    import altair as alt

    Chart: TypeAlias = alt.LayerChart | alt.HConcatChart


def figures(receipt: Receipt) -> dict[str, tuple[alt.LayerChart, ...]]:
    """Return the panels of every figure by its name; a figure without data is absent."""
    found = {"before-after": before_after(receipt), "layers": layers(receipt.layers), "attempts": attempts(receipt)}
    return {name: panels for name, panels in found.items() if panels}


def before_after(receipt: Receipt) -> tuple[alt.LayerChart, ...]:
    """Return file bytes, latency with its 95 % interval and accuracy as three small bar charts."""
    both = (receipt.before, receipt.after)
    latencies = [each.latency_seconds for each in both]
    return (
        pair("File size", [each.file_bytes for each in both], bytes_text),
        pair("Latency, batch 1", [each.median for each in latencies], milliseconds_text, latencies),
        pair(capital(scored_by(receipt.after)), [each.accuracy for each in both], percent_text),
    )


def layers(found: Sequence[Layer]) -> tuple[alt.LayerChart, ...]:
    """Return bytes and multiply-accumulates of every layer, before and after, in the order of the network."""
    if not found:
        return ()
    size = [(layer.name, layer.bytes_before, layer.bytes_after) for layer in found]
    work = [(layer.name, layer.macs_before, layer.macs_after) for layer in found]
    return pairs("Bytes per layer", size, bytes_text), pairs("Multiply-accumulates per layer", work, count_text)


def attempts(receipt: Receipt) -> tuple[alt.LayerChart, ...]:
    """Return file size and latency of the attempts against the validation accuracy that they lost."""
    if not receipt.attempts:
        return ()
    budget, before_bytes, before_ms = receipt.budget, receipt.before.file_bytes, receipt.before.latency_seconds.median * 1e3
    sizes = _points(receipt, before_bytes, [attempt.file_bytes for attempt in receipt.attempts])
    latencies = _points(receipt, before_ms, [attempt.latency_ms for attempt in receipt.attempts])
    most_bytes = _tightest(budget.max_bytes, before_bytes, budget.smaller)
    most_ms = _tightest(budget.max_latency_ms, before_ms, budget.faster)
    return (
        scatter("File size", "bytes", sizes, most_bytes, budget.max_drop),
        scatter("Latency, batch 1", "ms", latencies, most_ms, budget.max_drop),
    )


def beside(panels: Sequence[alt.LayerChart]) -> alt.HConcatChart:
    """Put the panels of a figure side by side."""
    import altair as alt

    return alt.hconcat(*panels, spacing=28)


def svg(chart: Chart) -> str:
    """Draw a chart as SVG text with a transparent ground."""
    text = io.StringIO()
    _styled(chart, "transparent").save(text, format="svg")
    return text.getvalue()


def png(chart: Chart, path: Path) -> None:
    """Draw a chart into a PNG file on white, whole or not at all."""
    content = io.BytesIO()
    _styled(chart, "white").save(content, format="png", scale_factor=2)
    write_bytes(path, content.getvalue())


def _styled(chart: Chart, background: str) -> Chart:
    """Return the chart in the report's dress: the generic sans-serif, few lines, grey axes."""
    axis = {"domainColor": FAINT, "tickColor": FAINT, "gridColor": FAINT, "gridOpacity": 0.2, "labelColor": INK, "titleColor": INK}
    styled: Chart = (
        chart.properties(background=background, padding=6)
        .configure(font="sans-serif")
        .configure_view(stroke=None)
        .configure_title(anchor="start", fontSize=13, fontWeight=600, color=INK, offset=10)
        .configure_axis(**axis, labelFontSize=11, titleFontSize=11, titleFontWeight="normal")
        .configure_legend(orient="bottom", title=None, labelColor=INK, labelFontSize=11)
    )
    return styled


def _points(receipt: Receipt, before: float, costs: Sequence[float]) -> list[Point]:
    """Return the network before and every attempt, numbered as in the table of attempts."""
    tried = zip(costs, receipt.attempts, strict=True)
    return [Point(before, 0.0, "", "before")] + [
        Point(cost, attempt.drop_points, str(number), "misses" if attempt.missed else "meets")
        for number, (cost, attempt) in enumerate(tried, 1)
    ]


def _tightest(most: float | None, before: float, times: float | None) -> float | None:
    """Return the limit that a maximum and a ratio to `before` set together."""
    asked = [limit for limit in (most, before / times if times else None) if limit is not None]
    return min(asked, default=None)
