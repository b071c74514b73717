"""Quantization without calibration inputs: what it costs on a large network, and what it loses beside calibration.

    python benchmarks/data_free.py [cost accuracy]

Run it from the repository's root; accuracy needs LACONIC_DATA. The cost is the time of `quantize.Static` alone, on one thread, on a network
of ResNet-50's shape with random weights: which they are does not change the work. Accuracy is of the program on the test split.
"""

import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DATA = Path(os.environ.get("LACONIC_DATA", "data"))
SETTINGS = ({}, {"calibration": "statistics"}, {"weight_bits": 4}, {"weight_bits": 4, "calibration": "statistics"})


class Bottleneck(nn.Module):
    """K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, figure 5 on the right."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.reduce, self.middle = convolution(inputs, width, 1), convolution(width, width, 3, stride)
        self.expand = convolution(width, 4 * width, 1)
        self.shortcut = convolution(inputs, 4 * width, 1, stride) if inputs != 4 * width else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return `(n, 4 * width, h / stride, w / stride)` of `(n, inputs, h, w)`."""
        return F.relu(self.expand(F.relu(self.middle(F.relu(self.reduce(images))))) + self.shortcut(images))


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Build a convolution with batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs))


def resnet50() -> nn.Sequential:
    """Build the network of table 1 of the paper, without weights: 25.6 million parameters."""
    layers, channels = [convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, 64 << stage, 2 if stage and not block else 1))
            channels = 256 << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)).eval()


def cost() -> None:
    """Print the seconds for 25 million parameters."""
    import numpy as np

    from laconic.context import Context
    from laconic.data import Split, Splits
    from laconic.program import capture
    from laconic.quantize import Static

    model = resnet50()
    program = capture(model, (torch.randn(2, 3, 224, 224),))
    part = Split(np.zeros((2, 3, 224, 224), np.uint8), np.zeros(2, np.int64), (127.0,) * 3, (58.0,) * 3)
    start, used = time.monotonic(), time.process_time()
    Static(calibration="statistics")(program, Context(Splits(None, part, part, part)))
    seconds, processor = time.monotonic() - start, time.process_time() - used
    parameters = sum(tensor.numel() for tensor in model.parameters())
    print(f"{parameters / 1e6:.1f} million parameters: {seconds:.1f} s ({processor:.1f} s of one processor), load {os.getloadavg()[0]:.1f}")


def accuracy() -> None:
    """Print accuracy and agreement of ResNet-20 on the test split, with and without calibration inputs."""
    from laconic.job import Origin, prepare
    from laconic.program import clone
    from laconic.quantize import Static

    job = prepare(Origin("zoo:resnet20", "cifar10-jpeg", DATA / "weights/resnet20_cifar10_jpeg.safetensors"), 1)
    labels = torch.from_numpy(job.splits.test.labels)
    with torch.no_grad():
        batches = [inputs for inputs, _ in job.splits.test.batches(250)]
        whole = torch.cat([job.program(inputs) for inputs in batches])
        print(f"float: {100 * float((whole.argmax(1) == labels).float().mean()):.2f} %")
        for settings in SETTINGS:
            made = Static(**settings)(clone(job.program), job.context)
            found = torch.cat([made(inputs) for inputs in batches])
            right, same = ((found.argmax(1) == wanted).float().mean() for wanted in (labels, whole.argmax(1)))
            decibels = 10 * torch.log10(whole.square().sum() / (found - whole).square().sum())
            print(f"{settings}: {100 * float(right):.2f} %, agreement {100 * float(same):.2f} %, {float(decibels):.1f} dB", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ("cost", "accuracy"):
        {"cost": cost, "accuracy": accuracy}[name]()
