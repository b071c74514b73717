"""Write the table of records into README.md, from the receipts under `records/`.

python benchmarks/readme_table.py
"""

import json
from pathlib import Path

from laconic.receipt import read_receipt
from laconic.report import markdown_table

ROOT = Path(__file__).parents[1]
SEEDS = 5  # of a record; one of fewer is not finished
START, END = "<!-- records -->", "<!-- /records -->"


def table() -> str:
    """Return the table of all finished records, by name."""
    folders = sorted(path.parent for path in (ROOT / "records").glob("*/seeds.json") if len(json.loads(path.read_text())["seeds"]) == SEEDS)
    return markdown_table({folder.name: read_receipt(folder) for folder in folders})


if __name__ == "__main__":
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(START)
    readme.write_text(f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}", encoding="utf-8")
