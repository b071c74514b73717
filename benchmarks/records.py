"""What the scripts that make records share: one command on five seeds, and the first seed's artifact with its receipt under `records/`."""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, float]
RECORDS = Path(__file__).parents[1] / "records"
SEEDS = range(5)

_WORST = {
    "smaller": min,
    "faster": min,
    "throughput": min,
    "accuracy_after": min,
    "drop_points": max,
    "file_bytes": max,
    "named_bytes": max,
}


def run(command: Sequence[str], seed: int, out: Path) -> Row:
    """Run `laconic COMMAND` with one seed; returns what the receipt claims."""
    words = [sys.executable, "-m", "laconic.cli", *command, "--seed", str(seed), "--out", str(out)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    receipt = json.loads((out / "receipt.json").read_text())
    ratios = receipt["ratios"]
    return {
        "smaller": ratios["smaller"],
        "faster": ratios["faster"]["median"],
        "throughput": ratios["throughput"],
        "fewer_macs": receipt["before"]["macs"] / receipt["after"]["macs"],
        "accuracy_before": receipt["before"]["accuracy"],
        "accuracy_after": receipt["after"]["accuracy"],
        "drop_points": receipt["drop_points"],
        "met": receipt["met"],
        "file_bytes": receipt["after"]["file_bytes"],
        **({"named_bytes": named} if (named := receipt["after"].get("named_bytes")) is not None else {}),
    }


def summary(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation (0 of a single seed) and worst of every measured quantity over the seeds."""
    columns = {name: [row[name] for row in rows] for name in _WORST if name in rows[0]}
    return {
        name: {"mean": mean(values), "spread": stdev(values) if len(values) > 1 else 0.0, "worst": _WORST[name](values)}
        for name, values in columns.items()
    }


def arguments(about: str | None, names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return which records the command line asks for, and which seeds of them in this sitting."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names)} (all)")
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS), help="of this sitting; a record has all")
    found = parser.parse_args()
    if unknown := [name for name in found.names if name not in names]:
        parser.error(f"unknown record {unknown[0]!r}; there are {', '.join(names)}")
    return found.names or list(names), found.seeds


def record(name: str, what: Any, command: Callable[[int], Sequence[str]], out: Callable[[int], Path], seeds: Sequence[int] = SEEDS) -> None:
    """Measure seeds, print them, and keep the first seed's artifact with its receipt and the table of seeds.

    It may take several sittings: what was measured of the same work is in the record already, and is not measured again.

    Args:
        name: folder under `records/`.
        what: is measured, as plain data; another work begins anew.
        command: what follows `laconic` for a seed, without seed and out.
        out: the folder of a seed.
        seeds: to measure now.
    """
    folder = RECORDS / name
    rows = known(folder, what)
    for seed in seeds:
        if str(seed) not in rows:
            rows[str(seed)] = run(command(seed), seed, out(seed))
            if seed == SEEDS[0]:
                keep(folder, out(seed))
            write_json(folder / "seeds.json", {"what": what, "seeds": dict(sorted(rows.items())), "summary": summary(list(rows.values()))})
    show(name, rows)


def known(folder: Path, what: Any) -> dict[str, Row]:
    """Return what a record has of seeds that measured the same."""
    path = folder / "seeds.json"
    held = json.loads(path.read_text()) if path.is_file() else {}
    return held["seeds"] if held.get("what") == json.loads(json.dumps(what)) else {}


def show(name: str, rows: dict[str, Row]) -> None:
    """Print every seed, and mean, spread and worst."""
    print(f"\n{name}")
    for seed, row in rows.items():
        print(f"  seed {seed}: " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    for key, values in summary(list(rows.values())).items():
        print(f"  {key:15} mean {values['mean']:.4g}  spread {values['spread']:.2g}  worst {values['worst']:.4g}")


def keep(target: Path, source: Path) -> None:
    """Copy artifact and receipt into a record; the baseline is left out, since `laconic verify` exports it anew from the weights."""
    target.mkdir(parents=True, exist_ok=True)
    for file in ("model.onnx", "model.lac", "named.lac", "receipt.json", "recipe.yaml"):
        if (source / file).is_file():
            shutil.copyfile(source / file, target / file)


def write_json(path: Path, content: Any) -> None:
    """Write what a record says in numbers."""
    path.write_text(json.dumps(content, indent=1) + "\n")
