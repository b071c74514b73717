"""Int8 against the fastest float32 runtime at batch 1: all files timed in turns in one fresh process, and how far int8 is from float.

    python benchmarks/speed.py [resnet50 mobilenet_v2 vit]

Run it from the repository's root, on an idle machine; it needs LACONIC_DATA. LACONIC_THREADS: threads of each runtime (2);
LACONIC_SECONDS: of timing (30). The weights of resnet50 and vit are random, the statistics of batch norm measured: speed and noise of one
network are compared, no accuracy.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from laconic import fresh, zoo
from laconic.context import Context
from laconic.data import load, split
from laconic.fresh import File
from laconic.measure import ratio_interval
from laconic.program import Program, capture, clone, fold_batch_norm
from laconic.quantize import Static
from laconic.runtimes import installed, runtime

THREADS = int(os.environ.get("LACONIC_THREADS", "2"))
SECONDS = float(os.environ.get("LACONIC_SECONDS", "30"))  # of timing
CALIBRATION, COMPARED = 32, 32  # images to calibrate with, and others to compare outputs on


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution and its batch norm."""
    return [nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs)]


class Bottleneck(nn.Module):
    """The block of ResNet-50 (K. He et al., CVPR 2016), with the stride in its 3x3 convolution."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        relu = nn.ReLU()
        layers = [*convolution(inputs, width, 1), relu, *convolution(width, width, 3, stride), relu, *convolution(width, 4 * width, 1)]
        self.body = nn.Sequential(*layers)
        changes = stride > 1 or inputs != 4 * width
        self.shortcut = nn.Sequential(*convolution(inputs, 4 * width, 1, stride)) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of body and shortcut, rectified."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    """Return ResNet-50."""
    blocks, inputs = list[nn.Module](), 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        for number in range(depth):
            blocks.append(Bottleneck(inputs, 64 << stage, 2 if stage and not number else 1))
            inputs = 256 << stage
    stem = [*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


class VisionTransformer(nn.Module):
    """12 blocks of width 384 on patches of 16 (ViT-S/16, H. Touvron et al., "Training data-efficient image transformers", ICML 2021)."""

    def __init__(self, width: int = 384, depth: int = 12, heads: int = 6) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, stride=16)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(0.02 * torch.randn(1, 197, width))
        blocks = [nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores read from the class token."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def mobilenet_v2() -> nn.Module:
    """Return the network of the zoo with its weights."""
    return zoo.load("zoo:mobilenet_v2", Path(os.environ["LACONIC_DATA"]) / "weights/mobilenet_v2_imagenet.safetensors")


NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet50": resnet50, "mobilenet_v2": mobilenet_v2, "vit": VisionTransformer}


@torch.no_grad()
def float_program(name: str, context: Context) -> Program:
    """Return a network as a program; batch norm holds the statistics of the first calibration images."""
    torch.manual_seed(0)
    model = NETWORKS[name]().train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        model(context.example(16)[0])
    program = capture(model.eval(), context.example())
    fold_batch_norm(program)
    return program


def export_all(name: str, context: Context, folder: Path) -> dict[tuple[str, str], File]:
    """Write float32 and int8 files of a network for every installed runtime: by precision and runtime."""
    program = float_program(name, context)
    programs = {"float32": program, "int8": Static()(clone(program), context)}
    files = {(precision, each): File(folder / f"{precision}-{each}.onnx", each) for precision in programs for each in installed()}
    for (precision, each), file in files.items():
        written = runtime(each).export(programs[precision], context.example(), file.path)
        kernels = f"{written.integer_kernels} integer kernels for {written.integer_tensors} integer tensors"
        print(f"{name} {precision} {each}: {file.path.stat().st_size / 1e6:.2f} MB, {kernels}", flush=True)
    return files


def decibels(files: dict[tuple[str, str], File], each: str, inputs: np.ndarray) -> float:
    """Return the signal-to-noise ratio of a runtime's int8 outputs against its float32 outputs."""
    signal, found = (runtime(each).load(files[precision, each].path, THREADS)(inputs) for precision in ("float32", "int8"))
    return 10 * float(np.log10(np.square(signal).sum() / np.square(found - signal).sum()))


def main(names: list[str]) -> None:
    """Print a row for each network and runtime."""
    torch.set_num_threads(THREADS)
    splits = split(load("imagenet-dev", None))
    context = Context(replace(splits, calibration=splits.calibration.take(slice(0, CALIBRATION))))
    images = context.splits.test.arrays(slice(0, COMPARED))
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            files = export_all(name, context, Path(folder))
            times = dict(zip(files, fresh.time_files(list(files.values()), images, THREADS, seconds=SECONDS).T, strict=True))
            noise = {each: decibels(files, each, images) for each in installed()}
        medians = {key: 1e3 * float(np.median(seconds)) for key, seconds in times.items()}
        fastest = min((key for key in times if key[0] == "float32"), key=medians.__getitem__)
        for each in installed():
            ratio = ratio_interval(times[fastest], times["int8", each])
            print(
                f"{name} {each}: {ratio.median:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] the fastest float32 "
                f"({fastest[1]}, {medians[fastest]:.2f} ms); int8 {medians['int8', each]:.2f} ms, "
                f"its own float32 {medians['float32', each]:.2f} ms; {noise[each]:.1f} dB; {THREADS} threads",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:] or list(NETWORKS))
