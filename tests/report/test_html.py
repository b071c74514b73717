from dataclasses import replace
from html.parser import HTMLParser

import pytest

from laconic.errors import LaconicError
from laconic.receipt import Receipt
from laconic.report import write_report
from laconic.report.html import page, per_class

HOSTILE = "<script>alert('x')</script>"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Outline(HTMLParser):
    """Collects tags, attributes and text of a page and checks that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text, self.open = set(), [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def written(receipt, tmp_path_factory) -> str:
    return write_report(receipt, tmp_path_factory.mktemp("report")).read_text(encoding="utf-8")


def test_the_page_and_its_plots_are_written_and_nothing_else(receipt, tmp_path):
    assert write_report(receipt, tmp_path) == tmp_path / "report.html"
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"report.html", "plots/before-after.png", "plots/layers.png", "plots/attempts.png"}


def test_the_page_is_well_formed(written):
    assert Outline(written).open == []


def test_the_page_refers_to_nothing_outside_itself(written):
    outline = Outline(written)
    assert not outline.tags & {"script", "link", "img", "iframe", "object"}
    assert not [name for name, _ in outline.attributes if name in ("src", "href", "xlink:href") or name.startswith("on")]
    assert "url(" not in written
    assert "@import" not in written


def test_every_part_of_the_receipt_is_on_the_page(receipt, written):
    text = Outline(written).text
    wanted = [
        "3.9x smaller, 2.1x faster, 0.12 points lost on 10,000 test examples; budget met",
        "1.24 ms (1.21-1.27)",
        "at least 3.5x smaller",
        "temperature: 4.0",
        "bias corrected on 512 calibration inputs",
        "12.6 min",
        "misses: 1.90 points lost, asked 0.5",
        "layer3.2.conv2",
        "Ankle boot",
        "Intel Xeon, 2 cores, AVX-512 VNNI",
        "Zalando Research, MIT licence",
        receipt.hashes.artifact,
        receipt.command,
        "laconic verify",
        "fresh process",
        "read once",
        "no energy meter",
    ]
    assert [each for each in wanted if each not in text] == []


def hostile(receipt: Receipt) -> Receipt:
    """Put markup wherever a receipt holds free text."""
    return replace(
        receipt,
        model={"name": HOSTILE, HOSTILE: [HOSTILE]},
        data={"name": HOSTILE, "nested": {HOSTILE: HOSTILE}},
        environment={HOSTILE: HOSTILE},
        runtime={"name": HOSTILE},
        recipe=[{HOSTILE: {"exclude": [HOSTILE]}}],
        met=False,
        missed=(HOSTILE,),
        command=HOSTILE,
        version=HOSTILE,
        before=replace(receipt.before, file=HOSTILE, runtime=HOSTILE, accuracy_per_class={HOSTILE: 0.5}),
        layers=(replace(receipt.layers[0], name=HOSTILE, kind=HOSTILE),),
        journal=(replace(receipt.journal[0], step=HOSTILE, settings={HOSTILE: HOSTILE}, notes=(HOSTILE,)),),
        attempts=(replace(receipt.attempts[0], name=HOSTILE, recipe=[{HOSTILE: {}}], missed=(HOSTILE,)),),
        hashes=replace(receipt.hashes, model=HOSTILE),
    )


def test_markup_in_the_receipt_is_shown_and_never_run(receipt, tmp_path):
    outline = Outline(write_report(hostile(receipt), tmp_path).read_text(encoding="utf-8"))
    assert "script" not in outline.tags
    assert outline.text.count(HOSTILE) > 20


def test_a_missed_budget_is_in_the_headline(receipt):
    text = Outline(page(replace(receipt, met=False, missed=("too slow",)), {})).text
    assert "budget missed: too slow" in text


def test_a_bare_receipt_makes_a_page_without_empty_sections(receipt):
    bare = replace(receipt, journal=(), attempts=(), layers=(), recipe=[], environment={}, runtime={}, model={}, data={})
    quiet = replace(bare, before=replace(bare.before, accuracy_per_class={}), after=replace(bare.after, accuracy_per_class={}))
    text = Outline(page(quiet, {})).text
    assert not [title for title in ("Journal", "Attempts", "Layers", "Accuracy per class", "Environment") if title in text]


def test_classes_are_sorted_by_loss_and_a_class_seen_once_has_no_gain(receipt):
    before = replace(receipt.before, accuracy_per_class={"same": 0.9, "hurt": 0.9, "gone": 0.9})
    after = replace(receipt.after, accuracy_per_class={"same": 0.9, "hurt": 0.5})
    rows = per_class(replace(receipt, before=before, after=after))
    assert [name for name, *_ in rows] == ["hurt", "same", "gone"]
    assert rows[2] == ("gone", 0.9, None, None)


def test_a_page_that_cannot_be_written_is_said_in_one_paragraph(receipt, tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(LaconicError, match=r"cannot write .*report\.html"):
        write_report(receipt, tmp_path)


def test_the_page_names_the_layers_that_the_hardware_does_not_pay_for(receipt, written):
    assert "conv1: 2.0x fewer MACs, 1.11x faster" in Outline(written).text
    paid = replace(receipt, layers=receipt.layers[1:])
    assert "at least half of that shows" in Outline(page(paid, {})).text
    untold = replace(receipt, layers=tuple(replace(layer, seconds_before=None, seconds_after=None) for layer in receipt.layers))
    assert "the runtime's own profile" not in Outline(page(untold, {})).text
