"""Records of the LeNets and of one convolution on MNIST: how few bytes, at which error, whole files counted.

    python benchmarks/lenet.py                          # all
    python benchmarks/lenet.py lenet300-mnist

Run it from the repository's root; it needs LACONIC_DATA. Each of five seeds trains a float network from random weights and then its small
one; the first seed's artifact, its receipt and the float weights that it began from go into `records/`. A seed of lenet300 takes 6 minutes
on one core, one of lenet5 20, of lenet5-mnist-tiny 10, of the others 5 to 8; what was cut off goes on where it was. Every choice was made
on the validation split, 5,000 of the training images.
"""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from records import RECORDS, arguments, record

RUNS = Path("runs") / "records"
FLOAT = "float.safetensors"
_LENET300 = ("zoo:lenet300", ("--epochs", "20", "--learning-rate", "0.1"))
_LENET5 = ("zoo:lenet5", ("--epochs", "20", "--learning-rate", "0.05"))
_RECURSIVE = ("zoo:recursive", ("--optimizer", "adamw", "--epochs", "4", "--learning-rate", "0.05", "--weight-decay", "0"))


class Work(NamedTuple):
    """What a record compresses, how, and what it must reach."""

    begins: tuple[str, tuple[str, ...]]  # network, and settings of its float training
    recipe: list[dict[str, dict[str, Any]]]
    goal: str
    floats: str | None = None  # the record whose float networks it begins from; None: its own

    @property
    def what(self) -> Any:
        """What its seeds measured: another work begins anew."""
        return (self.begins[0], self.begins[1], self.recipe)


WORKS = {
    "lenet300-mnist": Work(
        _LENET300,
        [{"quantize.EntropyPenalized": {"price": 4e-6, "epochs": 80, "batch": 256}}],
        "must: 8,000 bytes at 1.9 % error, named; aim: 4,096",
    ),
    "lenet5-mnist": Work(
        _LENET5,
        [{"quantize.EntropyPenalized": {"price": 2.2e-6, "epochs": 40, "batch": 256}}],
        "must: 3,000 bytes at 0.9 % error, named; aim: 2,000 at 0.70 %",
    ),
    "lenet5-mnist-tiny": Work(
        _LENET5,
        [
            {
                "prune.Filters": {
                    "bytes": 0.05,
                    "floor": 0.05,
                    "rounds": 2,
                    "training": {"epochs": 5, "learning_rate": 0.002, "optimizer": "adamw", "weight_decay": 0.0},
                }
            },
            {"quantize.EntropyPenalized": {"price": 1.9e-5, "epochs": 60, "learning_rate": 0.004}},
        ],
        "aim: 1,000 bytes at 0.96 % error, named",
        floats="lenet5-mnist",
    ),
    "mnist-600-bytes": Work(
        _RECURSIVE,
        [{"quantize.EntropyPenalized": {"price": 4.3e-5, "epochs": 14, "learning_rate": 0.005, "channels_last": False}}],
        "must: 600 bytes at 2 % error, named",
    ),
    "lenet300-deep-compression": Work(
        _LENET300,
        [
            {"prune.Rounds": {"sparsity": 0.9, "rounds": 4, "epochs": 8, "learning_rate": 0.05, "weight_decay": 0.0, "exclude": ["fc3"]}},
            {"share.KMeans": {"codes": 16, "importance": "fisher", "epochs": 6}},
        ],
        "must: 40 times smaller, named, at no loss within one standard error (0.09 points)",
        floats="lenet300-mnist",
    ),
    "lenet5-deep-compression": Work(
        _LENET5,
        [
            {
                "prune.Rounds": {
                    "sparsity": 0.905,
                    "rounds": 4,
                    "epochs": 8,
                    "batch": 256,
                    "learning_rate": 0.03,
                    "weight_decay": 0.0,
                    "exclude": ["conv1"],
                }
            },
            {"share.KMeans": {"codes": 16, "importance": "fisher", "epochs": 4}},
        ],
        "must: 40 times smaller, named, at no loss within one standard error (0.07 points)",
        floats="lenet5-mnist",
    ),
}


def trained(name: str, seed: int) -> Path:
    """Return the float weights of a seed, trained where they are not there yet; the first seed's lie in the record."""
    work = WORKS[name]
    if work.floats is not None:
        return trained(work.floats, seed)
    weights = RECORDS.relative_to(Path.cwd()) / name / FLOAT if seed == 0 else RUNS / name / f"seed-{seed}" / FLOAT
    if not weights.is_file():
        weights.parent.mkdir(parents=True, exist_ok=True)
        network, settings = work.begins
        words = ["train", "--model", network, "--data", "mnist", *settings, "--seed", str(seed), "--out", str(weights)]
        subprocess.run([sys.executable, "-m", "laconic.cli", *words], check=True, stdout=subprocess.DEVNULL)
    return weights


def command(name: str, seed: int) -> list[str]:
    """Return what follows `laconic` for a seed, after training its float network and writing the recipe where they are not there yet."""
    work, out = WORKS[name], folder(name, seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.yaml").write_text(yaml.safe_dump(work.recipe))
    words = ["compress", "--recipe", str(out / "recipe.yaml"), "--model", work.begins[0], "--weights", str(trained(name, seed))]
    return [*words, "--data", "mnist", "--runtime", "lac"]


def folder(name: str, seed: int) -> Path:
    """Return where a seed is delivered to."""
    return RUNS / name / f"seed-{seed}"


if __name__ == "__main__":
    names, seeds = arguments(__doc__, list(WORKS))
    for chosen in names:
        record(chosen, WORKS[chosen].what, partial(command, chosen), partial(folder, chosen), seeds)
        print(f"  {WORKS[chosen].goal}")
