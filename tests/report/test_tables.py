import io
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from laconic.report import attempts_table, markdown_table, receipt_table


def printed(table: Table) -> str:
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def line(text: str, start: str) -> str:
    return next(each for each in text.splitlines() if start in each)


def test_the_table_shows_before_after_and_change(receipt):
    latency = line(printed(receipt_table(receipt)), "latency")
    assert "1.24 ms (1.21-1.27)" in latency
    assert "0.590 ms (0.570-0.620)" in latency
    assert "2.1x faster (1.9-2.3)" in latency


def test_the_table_ends_with_what_was_asked_and_whether_it_was_met(receipt):
    missed = replace(receipt, budget=replace(receipt.budget, faster=3.0), met=False, missed=("2.1x faster, asked 3x",))
    text = printed(receipt_table(missed))
    assert "missed" in line(text, "at least 3x faster")
    assert " met" in line(text, "at least 3.5x smaller")
    assert text.rstrip().endswith("budget missed: 2.1x faster, asked 3x")


def test_names_in_square_brackets_are_text_and_no_markup(receipt):
    odd = replace(receipt, model={"name": "net[bold]"}, attempts=(replace(receipt.attempts[0], name="int8 [/red]"),))
    assert "net[bold]" in printed(receipt_table(odd))
    assert "int8 [/red]" in printed(attempts_table(odd))


def test_every_attempt_has_a_row_that_says_what_it_misses(receipt):
    text = printed(attempts_table(receipt))
    assert "misses: 1.7x faster, asked 2x" in line(text, " 1 ")
    assert "meets the budget, delivered" in line(text, " 2 ")


def test_markdown_has_one_row_per_record_with_as_many_cells_as_the_header(receipt):
    lines = markdown_table({"first": receipt, "second": receipt}).splitlines()
    assert [each.split(" | ")[0] for each in lines] == ["| record", "| ---", "| first", "| second"]
    assert {each.count("|") for each in lines} == {9}


def test_a_markdown_cell_cannot_break_its_table(receipt):
    text = markdown_table({"odd": replace(receipt, model={"name": "a|b\n<img>"})})
    assert "a\\|b &lt;img>" in text
    assert len(text.splitlines()) == 3


def test_the_markdown_row_holds_the_measured_changes(receipt):
    row = markdown_table({"r": receipt})
    assert "1.11 MB -> 283.2 kB (3.9x smaller)" in row
    assert "1.24 ms -> 0.590 ms (2.1x faster, 1.9-2.3)" in row
    assert "91.34 % -> 91.22 % (-0.12 points)" in row
