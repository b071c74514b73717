"""Records of the LeNets and of one convolution on MNIST: how few bytes, at which error, whole files counted.

    python benchmarks/lenet.py                          # all
    python benchmarks/lenet.py lenet300-mnist

Run it from the repository's root; it needs LACONIC_DATA. Each of five seeds trains a float network from random weights and then its small
one; the first seed's artifact, its receipt and the float weights that it began from go into `records/`. A seed of lenet300 takes 6 minutes
on one core, one of lenet5 20, one of mnist-600-bytes 5; what was cut off goes on where it was. Every choice was made on the validation
split, 5,000 of the training images.
"""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from records import RECORDS, arguments, record

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
        [{"quantize.EntropyPenalized": {"price": 2.2e-6, "epochs": 40, "batch": 256}}],
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
    weights = RECORDS.relative_to(Path.cwd()) / name / FLOAT if seed == 0 else RUNS / name / f"seed-{seed}" / FLOAT
    if not weights.is_file():
        weights.parent.mkdir(parents=True, exist_ok=True)
        words = ["train", "--model", network, "--data", "mnist", *settings, "--seed", str(seed), "--out", str(weights)]
        subprocess.run([sys.executable, "-m", "laconic.cli", *words], check=True, stdout=subprocess.DEVNULL)
    return weights


def command(name: str, seed: int) -> list[str]:
    """Return what follows `laconic` for a seed, after training its float network and writing the recipe where they are not there yet."""
    network, _, recipe, _ = WORKS[name]
    out = folder(name, seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = ["compress", "--recipe", str(out / "recipe.yaml"), "--model", network, "--weights", str(trained(name, seed)), "--data", "mnist"]
    return [*words, "--runtime", "lac"]


def folder(name: str, seed: int) -> Path:
    """Return where a seed is delivered to."""
    return RUNS / name / f"seed-{seed}"


if __name__ == "__main__":
    names, seeds = arguments(__doc__, list(WORKS))
    for chosen in names:
        record(chosen, WORKS[chosen][:3], partial(command, chosen), partial(folder, chosen), seeds)
        must, aim, error = WORKS[chosen][3]
        print(f"  must: {must} bytes at {error} % error, named; aim: {aim}")
