"""The report: one self-contained page that opens from disk, and its charts as PNG files."""

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from laconic.files import write_text
from laconic.receipt import Receipt
from laconic.report import comparison, plots, units

_CAPTIONS = {
    "before-after": "The exported file before and after. The short line on a latency bar is its 95 % interval.",
    "layers": "Where the bytes and the work (multiply-accumulates of one example) are. Bytes are of the weights; the file adds the graph.",
    "attempts": "Every attempt, numbered as in the table below; further left and further down is better. Dashed: the limits of the budget.",
}


def write_report(receipt: Receipt, folder: Path) -> Path:
    """Write `report.html` and `plots/*.png` into `folder` and return the path of the page.

    The page holds its own style and drawings, no scripts and no addresses, so it can be mailed, archived and printed.

    Raises:
        LaconicError: the folder cannot be written.
    """
    figures = plots.figures(receipt)
    for name, panels in figures.items():
        plots.png(plots.beside(panels), folder / "plots" / f"{name}.png")
    path = folder / "report.html"
    write_text(path, page(receipt, {name: [Markup(plots.svg(panel)) for panel in panels] for name, panels in figures.items()}))
    return path


def page(receipt: Receipt, drawings: dict[str, list[Markup]]) -> str:
    """Return the page as HTML text; everything but the drawings (SVG by figure) is escaped."""
    return (
        _environment()
        .get_template("page.html")
        .render(
            receipt=receipt,
            drawings=drawings,
            captions=_CAPTIONS,
            recipe=yaml.safe_dump(receipt.recipe, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100),
            classes=per_class(receipt),
            words=comparison,
            units=units,
        )
    )


def per_class(receipt: Receipt) -> list[tuple[str, float | None, float | None, float | None]]:
    """Return every class with its accuracy before and after and its gain in points, the most hurt first."""
    before, after = receipt.before.accuracy_per_class, receipt.after.accuracy_per_class
    found = []
    for name in dict.fromkeys((*before, *after)):
        gain = (after[name] - before[name]) * 100 if name in before and name in after else None
        found.append((name, before.get(name), after.get(name), gain))
    return sorted(found, key=lambda row: 0.0 if row[3] is None else row[3])


def plain(value: Any) -> str:
    """Write a setting or a fact as a person would.

    >>> plain({"ratio": 0.5, "exclude": ["fc", "stem"]}), plain(50_000), plain(None)
    ('ratio 0.5, exclude fc stem', '50,000', 'none')
    """
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(setting)}" for name, setting in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(plain, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value is None else str(value)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("laconic", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = plain
    return environment
