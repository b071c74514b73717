"""What the scripts that make records share: one command on five seeds, and the first seed's artifact with its receipt under `records/`."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev

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


def run(command: Sequence[str], seed: int, out: Path) -> dict[str, float]:
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


def summary(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation and worst of every measured quantity over the seeds."""
    columns = {name: [row[name] for row in rows] for name in _WORST if name in rows[0]}
    return {name: {"mean": mean(values), "spread": stdev(values), "worst": _WORST[name](values)} for name, values in columns.items()}


def record(name: str, command: Sequence[str], out: Callable[[int], Path]) -> None:
    """Measure all seeds, print them, and keep the first seed's artifact with its receipt and the table of seeds.

    Args:
        name: folder under `records/`.
        command: what follows `laconic`, without seed and out.
        out: the folder of a seed.
    """
    rows = [run(command, seed, out(seed)) for seed in SEEDS]
    result = {"seeds": rows, "summary": summary(rows)}
    print(f"\n{name}")
    for seed, row in zip(SEEDS, rows, strict=True):
        print(f"  seed {seed}: " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    for key, values in result["summary"].items():
        print(f"  {key:15} mean {values['mean']:.4g}  spread {values['spread']:.2g}  worst {values['worst']:.4g}")
    keep(RECORDS / name, out(SEEDS[0]), json.dumps(result, indent=1))


def keep(target: Path, source: Path, seeds: str) -> None:
    """Copy artifact and receipt into records/; the baseline is left out, since `laconic verify` exports it anew from the weights."""
    target.mkdir(parents=True, exist_ok=True)
    for file in ("model.onnx", "model.lac", "named.lac", "receipt.json"):
        if (source / file).is_file():
            shutil.copyfile(source / file, target / file)
    (target / "seeds.json").write_text(seeds + "\n")
