"""What README claims is what the receipts of the records say."""

import importlib.util
from pathlib import Path

import pytest

from laconic.receipt import read_receipt

ROOT = Path(__file__).parents[1]
RECORDS = sorted(path.parent for path in (ROOT / "records").glob("*/receipt.json"))


def readme_table():
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "benchmarks" / "readme_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.table()


def test_the_table_of_readme_is_that_of_the_receipts():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.partition("<!-- records -->")[2].partition("<!-- /records -->")[0].strip() == readme_table().strip()


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: folder.name)
def test_a_record_is_whole_and_met_its_budget(folder):
    receipt = read_receipt(folder)
    assert receipt.met
    assert (folder / receipt.after.file).stat().st_size == receipt.after.file_bytes
    assert (folder / "seeds.json").is_file()
