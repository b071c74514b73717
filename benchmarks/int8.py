"""Records of post-training int8: `laconic shrink` on five seeds, the delivered file of the first kept under `records/`.

    python benchmarks/int8.py                 # both networks
    python benchmarks/int8.py mobilenet-v2-int8

Needs LACONIC_DATA. Run it on an idle machine: accuracies and bytes do not mind company, latencies do.
"""

import os
from pathlib import Path

from records import arguments, record

DATA = Path(os.environ.get("LACONIC_DATA", "data"))
RUNS = Path("runs") / "records"

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


if __name__ == "__main__":
    names, seeds = arguments(__doc__, list(NETWORKS))
    for chosen in names:
        words = ["shrink", *NETWORKS[chosen]]
        record(chosen, NETWORKS[chosen][4:], lambda _, said=words: said, lambda seed, name=chosen: RUNS / name / f"seed-{seed}", seeds)
