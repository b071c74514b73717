import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from PIL import Image

from laconic.receipt import Budget, Layer
from laconic.report import figures, png, svg
from laconic.report.bars import largest
from laconic.report.plots import beside, layers

SVG = "{http://www.w3.org/2000/svg}"


def texts(drawing: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(drawing).iter(f"{SVG}text") if element.text]


def layer(name: str, count: int) -> Layer:
    return Layer(name, "linear", count, count, count, count, count, count * 4, count)


def test_every_figure_is_drawn_as_svg_with_the_generic_font_only(receipt):
    panels = [svg(panel) for found in figures(receipt).values() for panel in found]
    assert len(panels) == 7
    assert {font for panel in panels for font in re.findall(r'font-family="([^"]*)"', panel)} == {"sans-serif"}


def test_the_values_are_written_behind_the_bars(receipt):
    size, latency, accuracy = (texts(svg(panel)) for panel in figures(receipt)["before-after"])
    assert {"1.11 MB", "283.2 kB"} <= set(size)
    assert {"1.24 ms", "0.590 ms"} <= set(latency)
    assert {"91.34 %", "91.22 %"} <= set(accuracy)


def test_bars_are_as_long_as_their_values(receipt):
    drawing = svg(figures(receipt)["before-after"][0])
    before, after = (float(width) for width in re.findall(r'aria-roledescription="bar" d="M0,[\d.]+h([\d.]+)', drawing))
    assert before / after == pytest.approx(1_107_200 / 283_166, rel=1e-3)


def test_a_receipt_without_attempts_or_layers_has_only_the_first_figure(receipt):
    assert list(figures(replace(receipt, attempts=(), layers=()))) == ["before-after"]


def test_limits_of_the_budget_are_rules_and_no_limit_draws_none(receipt):
    def rules(budget: Budget) -> list[int]:
        return [svg(panel).count("stroke-dasharray") for panel in figures(replace(receipt, budget=budget))["attempts"]]

    assert rules(Budget(max_drop=0.5, smaller=3, max_bytes=400_000, max_latency_ms=1)) == [2, 2]
    assert rules(Budget(max_bytes=400_000)) == [1, 0]
    assert rules(Budget()) == [0, 0]


def test_attempts_are_numbered_as_in_the_table(receipt):
    for panel in figures(receipt)["attempts"]:
        assert {"1", "2", "3", "4"} <= set(texts(svg(panel)))


def test_of_many_layers_the_largest_are_drawn_in_order_and_the_title_says_so():
    sizes = [(index * 37) % 60 for index in range(60)]
    rows = [(f"block{index}", size, size) for index, size in enumerate(sizes)]
    assert [name for name, *_ in largest(rows)] == [f"block{index}" for index, size in enumerate(sizes) if size >= 36]
    drawing = svg(layers([layer(f"block{index}", size + 1) for index, size in enumerate(sizes)])[0])
    assert "Bytes per layer (the 24 largest of 60)" in texts(drawing)


def test_layers_whose_long_names_end_alike_stay_apart():
    tail = "very.long.tail.of.a.module.path.weight"
    drawing = svg(layers([layer(f"a.{tail}", 5), layer(f"b.{tail}", 7)])[0])
    assert drawing.count('aria-roledescription="bar"') == 4
    assert len({each for each in texts(drawing) if each.startswith(("a.", "b."))}) == 2


def test_a_network_of_zero_macs_can_still_be_drawn():
    assert "0" in texts(svg(layers([replace(layer("embedding", 5), macs_before=0, macs_after=0)])[1]))


def test_names_are_escaped_in_the_drawing():
    assert "<script" not in svg(layers([layer("<script>alert(1)</script>", 5)])[0])


def test_a_png_holds_the_panels_side_by_side_on_white(receipt, tmp_path):
    png(beside(figures(receipt)["before-after"]), tmp_path / "plots" / "before-after.png")
    with Image.open(tmp_path / "plots" / "before-after.png") as image:
        assert image.width > 3 * image.height
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
