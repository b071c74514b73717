"""Records of post-training int8: `laconic shrink` on five seeds, the delivered file of the first kept under `records/`.

    python benchmarks/int8.py                 # both networks
    python benchmarks/int8.py mobilenet-v2-int8

Needs LACONIC_DATA. Run it on an idle machine: accuracies and bytes do not mind company, latencies do.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

DATA = Path(os.environ.get("LACONIC_DATA", "data"))
RECORDS = Path(__file__).parents[1] / "records"
RUNS = Path("runs") / "records"
SEEDS = range(5)

NETWORKS = {
    "resnet20-cifar10-jpeg-int8": (
        *("--model", "zoo:resnet20", "--weights", str(DATA / "weights/resnet20_cifar10_jpeg.safetensors"), "--data", "cifar10-jpeg"),
        *("--max-drop", "0.5", "--smaller", "3.2", "--faster", "1.5"),
    ),
    "mobilenet-v2-int8": (
        *("--model", "zoo:mobilenet_v2", "--weights", str(DATA / "weights/mobilenet_v2_imagenet.safetensors"), "--data", "imagenet-dev"),
        *("--max-drop", "1.0", "--smaller", "3.5", "--faster", "1.5"),
    ),
}


def run(name: str, seed: int) -> dict[str, float]:
    """Shrink one network with one seed; returns what the receipt claims."""
    out = RUNS / name / f"seed-{seed}"
    command = [sys.executable, "-m", "laconic.cli", "shrink", *NETWORKS[name], "--seed", str(seed), "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    receipt = json.loads((out / "receipt.json").read_text())
    ratios = receipt["ratios"]
    return {
        "smaller": ratios["smaller"],
        "faster": ratios["faster"]["median"],
        "throughput": ratios["throughput"],
        "accuracy_before": receipt["before"]["accuracy"],
        "accuracy_after": receipt["after"]["accuracy"],
        "drop_points": receipt["drop_points"],
        "met": receipt["met"],
    }


def summary(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation and worst of every measured quantity over the seeds."""
    worst = {"smaller": min, "faster": min, "throughput": min, "accuracy_after": min, "drop_points": max}
    columns = {name: [row[name] for row in rows] for name in worst}
    return {name: {"mean": mean(values), "spread": stdev(values), "worst": worst[name](values)} for name, values in columns.items()}


def record(name: str) -> None:
    """Measure all seeds, print them, and keep the first seed's artifact with its receipt and the table of seeds."""
    rows = [run(name, seed) for seed in SEEDS]
    result = {"seeds": rows, "summary": summary(rows)}
    print(f"\n{name}")
    for seed, row in zip(SEEDS, rows, strict=True):
        print(f"  seed {seed}: " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    for key, values in result["summary"].items():
        print(f"  {key:15} mean {values['mean']:.4g}  spread {values['spread']:.2g}  worst {values['worst']:.4g}")
    keep(name, json.dumps(result, indent=1))


def keep(name: str, seeds: str) -> None:
    """Copy artifact and receipt into records/; the baseline is left out, since `laconic verify` exports it anew from the weights."""
    source, target = RUNS / name / "seed-0", RECORDS / name
    target.mkdir(parents=True, exist_ok=True)
    for file in ("model.onnx", "receipt.json"):
        shutil.copyfile(source / file, target / file)
    (target / "seeds.json").write_text(seeds + "\n")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or NETWORKS:
        record(chosen)
