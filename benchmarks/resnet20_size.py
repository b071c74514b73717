"""Record of ResNet-20 on cifar10-jpeg in few bytes: whole files counted, the float network's accuracy nearly kept.

    python benchmarks/resnet20_size.py

Each of five seeds trains the given float network under a price for bits; the first seed's artifact and receipt go into `records/`. Needs
LACONIC_DATA. A seed takes 25 minutes on one core; what was cut off goes on where it was, and measured seeds are kept.
"""

import os
from pathlib import Path

import yaml

from records import arguments, record

NAME = "resnet20-cifar10-jpeg-20x"
RUNS = Path("runs") / "records" / NAME
WEIGHTS = Path(os.environ.get("LACONIC_DATA", "data")) / "weights/resnet20_cifar10_jpeg.safetensors"
RECIPE = [
    {"quantize.EntropyPenalized": {"price": 2.0e-6, "epochs": 10, "learning_rate": 0.002, "alpha": 0.7, "norms": "fold"}},
]


def command(seed: int) -> list[str]:
    """Return what follows `laconic` for a seed, after writing the recipe."""
    recipe = folder(seed) / "recipe.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(yaml.safe_dump(RECIPE))
    words = ["compress", "--recipe", str(recipe), "--model", "zoo:resnet20", "--weights", str(WEIGHTS), "--data", "cifar10-jpeg"]
    return [*words, "--runtime", "lac"]


def folder(seed: int) -> Path:
    """Return where a seed is delivered to."""
    return RUNS / f"seed-{seed}"


if __name__ == "__main__":
    _, chosen = arguments(__doc__, [NAME])
    record(NAME, RECIPE, command, folder, chosen)
    print("  must: 20 times smaller at 0.5 points; aim: 27 times at 0.3")
