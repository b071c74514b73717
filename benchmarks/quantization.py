"""Post-training quantization measured on the exported files: accuracy, agreement with the float network, signal-to-noise, bytes.

    python benchmarks/quantization.py [resnet20 resnet56 mobilenet_v2 mobilenet_v2-twin] [--peers PYTHON]

Run it from the repository's root; it needs LACONIC_DATA. PYTHON is the interpreter of an environment with the peers (see `peers.py`): they
get the same float network, calibration images and runtime, and have rows beside ours at 8 bits. Calibration images are unlabelled: 512 of
CIFAR-10's training images, drawn by the seed, or the 128 that imagenet-dev sets aside. Scores are of the test split.

The twin is mobilenet_v2 with every channel that joins two layers linearly multiplied by a random factor in [1/4, 4], which the next layer
divides out: the same function, without the scales that it has from the 8-bit network that it was derived from.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from peers import PEERS

DATA = Path(os.environ.get("LACONIC_DATA", "data"))
SEEDS = range(3)

WEIGHTS = {
    "resnet20": DATA / "weights/resnet20_cifar10_jpeg.safetensors",
    "resnet56": Path("records/resnet56-cifar10-jpeg/resnet56.safetensors"),
    "mobilenet_v2": DATA / "weights/mobilenet_v2_imagenet.safetensors",
}
Row = dict[str, float]
WIDTHS = {"resnet": ((8, 8), (4, 8), (4, 4), (3, 3), (2, 4)), "mobilenet": ((8, 8), (4, 8), (4, 4))}


def settings(weight_bits: int, activation_bits: int) -> dict[str, Any]:
    """Return the settings of `quantize.Static` for widths."""
    widths = {"weight_bits": weight_bits, "activation_bits": activation_bits, "weight_ranges": "mean-square"}
    if weight_bits == 8:
        return {**widths, "equalization": "auto"}
    return {**widths, "rounding": "layer" if weight_bits > 2 else "block", "tuning_epochs": 8 if activation_bits < 8 else 0}


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


def prepared(network: str, seed: int) -> tuple[Any, Any]:
    """Return the job and the float program; a twin has its batch norms folded."""
    from laconic.job import Origin, prepare
    from laconic.program import clone, fold_batch_norm

    base, data = network.removesuffix("-twin"), "imagenet-dev" if network.startswith("mobilenet") else "cifar10-jpeg"
    job = prepare(Origin(f"zoo:{base}", data, WEIGHTS[base], seed=seed), 1)
    program = clone(job.program)
    if base != network:
        fold_batch_norm(program)
        program = rescaled(program, seed)
    return job, program


def measured(network: str, seed: int, step: Any) -> Row:
    """Quantize by a step, export, and compare the file with the float network on the test split."""
    import torch

    from laconic.program import clone, packed_bytes
    from laconic.runtimes import onnxruntime

    torch.set_num_threads(1)
    job, program = prepared(network, seed)
    start = time.monotonic()
    quantized = step(clone(program), job.context)
    seconds = time.monotonic() - start
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("float.onnx", "quantized.onnx")]
        for each, path in zip((program, quantized), files, strict=True):
            onnxruntime.export(each, job.context.example(), path)
        return {**compared(*files, job.splits.test), "packed": packed_bytes(quantized), "seconds": seconds}


def theirs(network: str, seed: int, peer: str, python: Path) -> Row:
    """Let a peer quantize the float file in its own environment, and compare its file with the float one on the test split."""
    import numpy as np

    from laconic.runtimes import onnxruntime

    job, program = prepared(network, seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, images, out = (Path(folder) / name for name in ("float.onnx", "images.npy", "quantized.onnx"))
        onnxruntime.export(program, job.context.example(), whole)
        np.save(images, job.splits.calibration.arrays(slice(None)))
        start = time.monotonic()
        script = Path(__file__).with_name("peers.py")
        subprocess.run([python, script, peer, whole, images, out], check=True, capture_output=True, text=True)
        return {**compared(whole, out, job.splits.test), "seconds": time.monotonic() - start}


def compared(whole: Path, quantized: Path, split: Any) -> Row:
    """Return accuracy, agreement of the first answers and signal-to-noise of the logits on all examples."""
    import numpy as np

    from laconic.runtimes import onnxruntime

    runs, outputs, labels = [onnxruntime.load(path, 1) for path in (whole, quantized)], ([], []), []
    for inputs, wanted in split.batches(64):
        labels.append(wanted.numpy())
        for run, found in zip(runs, outputs, strict=True):
            found.append(run(inputs.numpy()))
    before, after, truth = np.concatenate(outputs[0]), np.concatenate(outputs[1]), np.concatenate(labels)
    return {
        "float": 100 * float((before.argmax(1) == truth).mean()),
        "accuracy": 100 * float((after.argmax(1) == truth).mean()),
        "agreement": 100 * float((after.argmax(1) == before.argmax(1)).mean()),
        "decibels": 10 * float(np.log10(np.square(before).sum() / np.square(after - before).sum())),
        "bytes": quantized.stat().st_size,
    }


def show(name: str, rows: list[Row]) -> None:
    """Print means over seeds, and the worst drop."""
    average = {key: mean(row[key] for row in rows) for key in rows[0]}
    drops = [row["float"] - row["accuracy"] for row in rows]
    print(
        f"{name}: {average['accuracy']:.2f} %, {mean(drops):+.2f} points lost (worst {max(drops):+.2f}), "
        f"agreement {average['agreement']:.1f} %, {average['decibels']:.1f} dB, {average['bytes'] / 1e6:.3f} MB, "
        f"{average['seconds']:.0f} s, seeds {len(rows)}",
        flush=True,
    )


def main() -> None:
    """Print a row for each network and width, and for each peer at 8 bits."""
    from laconic.quantize import Static

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["resnet20", "resnet56", "mobilenet_v2", "mobilenet_v2-twin"])
    parser.add_argument("--peers", type=Path, help="interpreter of the peers' environment")
    chosen = parser.parse_args()
    for network in chosen.networks:
        kind = "resnet" if network.startswith("resnet") else "mobilenet"
        seeds = SEEDS if kind == "resnet" else [0]
        for widths in WIDTHS[kind]:
            show(f"{network} W{widths[0]}A{widths[1]}", [measured(network, seed, Static(**settings(*widths))) for seed in seeds])
        for peer in PEERS if chosen.peers else ():
            show(f"{network} W8A8, {peer}", [theirs(network, seed, peer, chosen.peers) for seed in seeds])


if __name__ == "__main__":
    main()
