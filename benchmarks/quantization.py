"""Post-training quantization measured on the exported files: accuracy, agreement with the float network, signal-to-noise, bytes.

    python benchmarks/quantization.py [resnet20 resnet56 mobilenet_v2 mobilenet_v2-twin]

Run it from the repository's root; it needs LACONIC_DATA. Calibration images are unlabelled: 512 of CIFAR-10's training images, drawn by the
seed, or the 128 that imagenet-dev sets aside. Scores are of the test split.

The twin is mobilenet_v2 with every channel that joins two layers linearly multiplied by a random factor in [1/4, 4], which the next layer
divides out: the same function, without the scales that it has from the 8-bit network that it was derived from.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

DATA = Path(os.environ.get("LACONIC_DATA", "data"))
SEEDS = range(3)

WEIGHTS = {
    "resnet20": DATA / "weights/resnet20_cifar10_jpeg.safetensors",
    "resnet56": Path("records/resnet56-cifar10-jpeg/resnet56.safetensors"),
    "mobilenet_v2": DATA / "weights/mobilenet_v2_imagenet.safetensors",
}
WIDTHS = {"resnet": ((8, 8), (4, 8), (4, 4), (3, 3)), "mobilenet": ((8, 8), (4, 8), (4, 4))}


def settings(weight_bits: int, activation_bits: int) -> dict[str, Any]:
    """Return the settings of `quantize.Static` for widths."""
    widths = {"weight_bits": weight_bits, "activation_bits": activation_bits, "weight_ranges": "mean-square"}
    return widths if weight_bits == 8 else {**widths, "rounding": "layer"}


def rescaled(program: Any, seed: int) -> Any:
    """Return the function-preserving twin."""
    import torch

    from laconic.program import clone
    from laconic.quantize.equalize import links, scale_link

    twin, generator = clone(program), torch.Generator().manual_seed(seed)
    for link in links(twin):
        if not link.bounded:
            scale_link(twin, link, 4 ** (2 * torch.rand(link.channels, generator=generator) - 1))
    return twin


def measured(network: str, seed: int, step: Any) -> dict[str, float]:
    """Quantize by a step, export, and compare the file with the float network on the test split."""
    import numpy as np
    import torch

    from laconic.job import Origin, prepare
    from laconic.program import clone, fold_batch_norm, packed_bytes
    from laconic.runtimes import onnxruntime

    torch.set_num_threads(1)
    base, data = network.removesuffix("-twin"), "imagenet-dev" if network.startswith("mobilenet") else "cifar10-jpeg"
    job = prepare(Origin(f"zoo:{base}", data, WEIGHTS[base], seed=seed), 1)
    program = clone(job.program)
    if base != network:
        fold_batch_norm(program)
        program = rescaled(program, seed)
    start = time.monotonic()
    quantized = step(clone(program), job.context)
    seconds, example = time.monotonic() - start, job.context.example()
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("float", "quantized")}
        for name, each in (("float", program), ("quantized", quantized)):
            onnxruntime.export(each, example, files[name])
        runs = {name: onnxruntime.load(path, 1) for name, path in files.items()}
        outputs, labels = {name: [] for name in runs}, []
        for inputs, wanted in job.splits.test.batches(64):
            labels.append(wanted.numpy())
            for name, run in runs.items():
                outputs[name].append(run(inputs.numpy()))
        size = files["quantized"].stat().st_size
    whole, found, truth = np.concatenate(outputs["float"]), np.concatenate(outputs["quantized"]), np.concatenate(labels)
    return {
        "float": 100 * float((whole.argmax(1) == truth).mean()),
        "accuracy": 100 * float((found.argmax(1) == truth).mean()),
        "agreement": 100 * float((found.argmax(1) == whole.argmax(1)).mean()),
        "decibels": 10 * float(np.log10(np.square(whole).sum() / np.square(found - whole).sum())),
        "bytes": size,
        "packed": packed_bytes(quantized),
        "seconds": seconds,
    }


def main(networks: list[str]) -> None:
    """Print a row for each network and width: means over seeds, and the worst drop."""
    from laconic.quantize import Static

    for network in networks:
        is_cifar = network.startswith("resnet")
        for widths in WIDTHS["resnet" if is_cifar else "mobilenet"]:
            rows = [measured(network, seed, Static(**settings(*widths))) for seed in (SEEDS if is_cifar else [0])]
            average = {key: mean(row[key] for row in rows) for key in rows[0]}
            drops = [row["float"] - row["accuracy"] for row in rows]
            print(
                f"{network} W{widths[0]}A{widths[1]}: {average['accuracy']:.2f} %, "
                f"{mean(drops):+.2f} points lost (worst {max(drops):+.2f}), agreement {average['agreement']:.1f} %, "
                f"{average['decibels']:.1f} dB, {average['bytes'] / 1e6:.3f} MB, "
                f"{average['seconds']:.0f} s, seeds {len(rows)}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:] or ["resnet20", "resnet56", "mobilenet_v2", "mobilenet_v2-twin"])
