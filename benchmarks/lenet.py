"""Records of the LeNets and of one convolution on MNIST: how few bytes, at which error, whole files counted.

    python benchmarks/lenet.py                          # all
    python benchmarks/lenet.py lenet300-mnist

Each of five seeds trains a float network from random weights and then its small one; the first seed's artifact, its receipt and the float
weights that it began from go into `records/`. Needs LACONIC_DATA. A seed of lenet300 takes 6 minutes on one core, one of lenet5 20, one of
mnist-600-bytes 5; what was cut off goes on where it was. Every choice was made on the validation split, 5,000 of the training images.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from records import RECORDS, SEEDS, keep, run, summary

RUNS = Path("runs") / "records"
FLOAT = "float.safetensors"
# network, settings of the float training, recipe, bytes of the named file that must be met and that are aimed at, error in % of both
WORKS: dict[str, tuple[str, list[str], list[dict[str, dict[str, Any]]], tuple[int, int, float]]] = {
    "lenet300-mnist": (
        "zoo:lenet300",
        ["--epochs", "20", "--learning-rate", "0.1"],
        [{"quantize.EntropyPenalized": {"price": 4e-6, "epochs": 80, "batch": 256}}],
        (8000, 4096, 1.9),
    ),
    "lenet5-mnist": (
        "zoo:lenet5",
        ["--epochs", "20", "--learning-rate", "0.05"],
        [{"quantize.EntropyPenalized": {"price": 1e-5, "epochs": 60, "batch": 256}}],
        (3000, 2000, 0.9),
    ),
    "mnist-600-bytes": (
        "zoo:recursive",
        ["--optimizer", "adamw", "--epochs", "4", "--learning-rate", "0.05", "--weight-decay", "0"],
        [{"quantize.EntropyPenalized": {"price": 4.3e-5, "epochs": 14, "learning_rate": 0.005, "channels_last": False}}],
        (600, 600, 2.0),
    ),
}


def trained(name: str, seed: int) -> Path:
    """Return the float weights of a seed, trained where they are not there yet; the first seed's lie in the record."""
    network, settings, _, _ = WORKS[name]
    weights = RECORDS / name / FLOAT if seed == 0 else RUNS / name / f"seed-{seed}" / FLOAT
    if not weights.is_file():
        weights.parent.mkdir(parents=True, exist_ok=True)
        words = ["train", "--model", network, "--data", "mnist", *settings, "--seed", str(seed), "--out", str(weights)]
        subprocess.run([sys.executable, "-m", "laconic.cli", *words], check=True, stdout=subprocess.DEVNULL)
    return weights


def measured(name: str, seed: int) -> dict[str, float]:
    """Return what the receipt of a seed claims, after making it where it is not there yet."""
    network, _, recipe, _ = WORKS[name]
    out = RUNS / name / f"seed-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = ["compress", "--recipe", str(out / "recipe.yaml"), "--model", network, "--weights", str(trained(name, seed)), "--data", "mnist"]
    return run([*words, "--runtime", "lac"], seed, out)


def record(name: str) -> None:
    """Measure all seeds, print them beside the targets, and keep the first."""
    rows = [measured(name, seed) for seed in SEEDS]
    result = {"seeds": rows, "summary": summary(rows)}
    must, aim, error = WORKS[name][3]
    print(f"\n{name}: at most {must} bytes at {error} % error, aim {aim}")
    for seed, row in zip(SEEDS, rows, strict=True):
        errors = 100 * (1 - row["accuracy_after"])
        print(f"  seed {seed}: named {row['named_bytes']} bytes, self-contained {row['file_bytes']} bytes, {errors:.2f} % error")
    keep(RECORDS / name, RUNS / name / "seed-0", json.dumps(result, indent=1))
    shutil.copyfile(RUNS / name / "seed-0" / "recipe.yaml", RECORDS / name / "recipe.yaml")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or WORKS:
        record(chosen)
