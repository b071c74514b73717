"""Receipts as tables for the terminal and the README, as charts, and as one self-contained page."""

from laconic.report.comparison import headline, short_recipe, verdict
from laconic.report.groups import frozen_table, groups_table
from laconic.report.html import write_report
from laconic.report.plots import figures, png, svg
from laconic.report.tables import attempts_table, markdown_table, receipt_table

__all__ = [
    "attempts_table",
    "figures",
    "frozen_table",
    "groups_table",
    "headline",
    "markdown_table",
    "png",
    "receipt_table",
    "short_recipe",
    "svg",
    "verdict",
    "write_report",
]
