"""Records of quantization during training: `laconic compress` on five seeds, the delivered file of the first kept under `records/`.

    python benchmarks/quantized_training.py                                # all three
    python benchmarks/quantized_training.py resnet20-cifar10-jpeg-w2a2

Needs LACONIC_DATA. A seed takes half an hour on one core; a run that was cut off goes on where it was. Accuracies and bytes do not mind
company, latencies do.
"""

import os
import sys
from pathlib import Path
from typing import Any

import yaml

from records import record

DATA = Path(os.environ.get("LACONIC_DATA", "data"))
RUNS = Path("runs") / "records"

NETWORK = ("--model", "zoo:resnet20", "--weights", str(DATA / "weights/resnet20_cifar10_jpeg.safetensors"), "--data", "cifar10-jpeg")
STEPS: dict[str, dict[str, Any]] = {
    "resnet20-cifar10-jpeg-w4a4": {"weight_bits": 4, "activation_bits": 4, "epochs": 5, "learning_rate": 0.0005},
    "resnet20-cifar10-jpeg-w2a2": {"weight_bits": 2, "activation_bits": 2, "epochs": 15},
    "resnet20-cifar10-jpeg-w1a1": {"weight_bits": 1, "activation_bits": 1, "epochs": 15, "wide": ["*downsample*"]},
}


def command(name: str) -> list[str]:
    """Return what follows `laconic`, after writing the recipe."""
    recipe = RUNS / name / "recipe.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(yaml.safe_dump([{"quantize.Training": STEPS[name]}]))
    return ["compress", "--recipe", str(recipe), *NETWORK]


if __name__ == "__main__":
    for chosen in sys.argv[1:] or STEPS:
        record(chosen, command(chosen), lambda seed, name=chosen: RUNS / name / f"seed-{seed}")
