"""Records of few-bit quantization: `laconic compress` on five seeds, the delivered file of the first kept under `records/`.

    python benchmarks/quantized.py                                # all
    python benchmarks/quantized.py resnet20-cifar10-jpeg-w2a2

Needs LACONIC_DATA. Of those that train a seed takes 11 (w4a4) to 35 minutes on one core, of the others 2; a run that was cut off goes on
where it was. Accuracies and bytes do not mind company, latencies do.
"""

import os
import sys
from pathlib import Path
from typing import Any

import yaml

from records import record

DATA = Path(os.environ.get("LACONIC_DATA", "data"))
RUNS = Path("runs") / "records"

RESNET20 = ("--model", "zoo:resnet20", "--weights", str(DATA / "weights/resnet20_cifar10_jpeg.safetensors"), "--data", "cifar10-jpeg")
MOBILENET = ("--model", "zoo:mobilenet_v2", "--weights", str(DATA / "weights/mobilenet_v2_imagenet.safetensors"), "--data", "imagenet-dev")
STEPS: dict[str, tuple[tuple[str, ...], str, dict[str, Any]]] = {
    "mobilenet-v2-w8a8": (MOBILENET, "quantize.Static", {"weight_ranges": "mean-square"}),
    "mobilenet-v2-w4a8": (MOBILENET, "quantize.Static", {"weight_bits": 4, "weight_ranges": "mean-square", "rounding": "layer"}),
    "resnet20-cifar10-jpeg-w4a4": (
        RESNET20,
        "quantize.Training",
        {"weight_bits": 4, "activation_bits": 4, "epochs": 5, "learning_rate": 0.0005},
    ),
    "resnet20-cifar10-jpeg-w2a2": (RESNET20, "quantize.Training", {"weight_bits": 2, "activation_bits": 2, "epochs": 15}),
    "resnet20-cifar10-jpeg-w1a1": (
        RESNET20,
        "quantize.Training",
        {"weight_bits": 1, "activation_bits": 1, "epochs": 15, "wide": ["*downsample*"]},
    ),
}


def command(name: str) -> list[str]:
    """Return what follows `laconic`, after writing the recipe."""
    network, step, settings = STEPS[name]
    recipe = RUNS / name / "recipe.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(yaml.safe_dump([{step: settings}]))
    return ["compress", "--recipe", str(recipe), *network]


if __name__ == "__main__":
    for chosen in sys.argv[1:] or STEPS:
        record(chosen, command(chosen), lambda seed, name=chosen: RUNS / name / f"seed-{seed}")
