"""Receipts as tables: for the terminal and, many at once, for the README."""

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from laconic.receipt import Receipt
from laconic.report.comparison import attempt_verdict, conditions, limits, rows, score_of, short_recipe, subject, verdict
from laconic.report.units import bytes_text, faster_text, gain_text, milliseconds_text, ratio_text

_GOOD, _BAD = "green", "red"
_README = ("record", "network", "data", "recipe", "file", "latency, batch 1", "accuracy", "runtime")


def receipt_table(receipt: Receipt) -> Table:
    """Return the before/after table, followed by one line per limit of the budget and the verdict."""
    table = Table(title=Text(f"{subject(receipt)} ({conditions(receipt)})"), title_justify="left", caption_justify="left")
    for column in ("", "before", "after", "change"):
        table.add_column(column, justify="left" if column in ("", "change") else "right")
    for row in rows(receipt):
        table.add_row(row.quantity, row.before, row.after, row.change)
    if limits(receipt):
        table.add_section()
        table.add_row("budget", "asked", "measured", "", style="bold")
    for limit in limits(receipt):
        table.add_row("", limit.asked, limit.measured, _judged(limit.met, "met" if limit.met else "missed"))
    table.caption = _judged(receipt.met, verdict(receipt))
    return table


def attempts_table(receipt: Receipt) -> Table:
    """Return every attempt of the ladder with what it missed; scores are of the validation split."""
    table = Table(title="attempts (accuracy on the validation split)", title_justify="left")
    for column in ("#", "attempt", "file", "smaller", "latency", "faster", "accuracy", "budget"):
        table.add_column(column, justify="right" if column in ("#", "file", "smaller", "latency", "faster") else "left")
    for number, attempt in enumerate(receipt.attempts, 1):
        table.add_row(
            str(number),
            Text(attempt.name),
            bytes_text(attempt.file_bytes),
            f"{attempt.smaller:.2f}x",
            milliseconds_text(attempt.latency_ms / 1e3),
            f"{attempt.faster:.2f}x",
            gain_text(-attempt.drop_points),
            _judged(not attempt.missed, attempt_verdict(attempt, receipt)),
        )
    return table


def markdown_table(receipts: Mapping[str, Receipt]) -> str:
    """Return one Markdown row per record, by name of the record."""
    lines = [_README, ("---",) * len(_README), *(_record(name, receipt) for name, receipt in receipts.items())]
    return "".join(f"| {' | '.join(_cell(text) for text in line)} |\n" for line in lines)


def _record(name: str, receipt: Receipt) -> tuple[str, ...]:
    """Return the cells of one record."""
    before, after, ratios = receipt.before, receipt.after, receipt.ratios
    slow, fast = (milliseconds_text(each.latency_seconds.median) for each in (before, after))
    return (
        name,
        str(receipt.model.get("name", "")),
        str(receipt.data.get("name", "")),
        short_recipe(receipt.recipe),
        _changed(bytes_text(before.file_bytes), bytes_text(after.file_bytes), ratio_text(ratios.smaller, "smaller", "larger")),
        _changed(slow, fast, faster_text(ratios.faster)),
        _changed(score_of(before), score_of(after), gain_text(-receipt.drop_points)),
        conditions(receipt),
    )


def _changed(before: str, after: str, change: str) -> str:
    """Write a change in one cell; "2.1x faster (1.9-2.3)" becomes "2.1x faster, 1.9-2.3" in its brackets."""
    return f"{before} -> {after} ({change.replace(' (', ', ').rstrip(')')})"


def _cell(text: str) -> str:
    """Keep a cell on one line and its bars and brackets out of the table's own syntax."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _judged(good: bool, text: str) -> Text:
    return Text(text, style=_GOOD if good else _BAD)
