"""Residual networks for 32 x 32 images.

Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
"""

from collections.abc import Collection
from typing import Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

Shortcut: TypeAlias = Literal["projection", "padding"]


class Padding(nn.Module):
    """The shortcut without parameters (the paper's option A): every second pixel, zeros for the new channels on both sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels  # how many are added on each side

    def forward(self, images: Tensor) -> Tensor:
        """Return `(n, c + 2 * channels, h / 2, w / 2)` of `(n, c, h, w)`."""
        return F.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, self.channels, self.channels))


class Block(nn.Module):
    """Two 3 x 3 convolutions around which the input is added."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, shortcut: Shortcut = "projection") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 and shortcut == "padding":
            self.downsample = Padding((outputs - inputs) // 2)
        elif stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Return `(n, outputs, h / stride, w / stride)` of `(n, inputs, h, w)`."""
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = self.bn2(self.conv2(hidden))
        return F.relu(hidden + self.downsample(images))


class ResNet(nn.Module):
    """Three stages of residual blocks, 16, 32 and 64 channels wide; each but the first halves height and width.

    The classifier is named `fc` with projections and `linear` with padding, as in the published weights of either kind.
    """

    def __init__(self, blocks: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, 1, shortcut)
        self.layer2 = _stage(blocks, 16, 32, 2, shortcut)
        self.layer3 = _stage(blocks, 32, 64, 2, shortcut)
        self._classifier = "linear" if shortcut == "padding" else "fc"
        self.add_module(self._classifier, nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(n, 10)` of `(n, 3, h, w)`."""
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        logits: Tensor = self.get_submodule(self._classifier)(hidden.mean((2, 3)))
        return logits


def resnet20(*, shortcut: Shortcut = "projection") -> nn.Module:
    """Build ResNet-20 for CIFAR (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016): 272,474 parameters.

    Args:
        shortcut: where the size changes: "projection", a 1 x 1 convolution with batch norm, or "padding", the paper's option A.
    """
    return ResNet(3, shortcut)


def resnet56(*, shortcut: Shortcut = "projection") -> nn.Module:
    """Build ResNet-56 for CIFAR (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016): 855,770 parameters.

    Args:
        shortcut: as in `resnet20`.
    """
    return ResNet(9, shortcut)


def shortcut_of(names: Collection[str]) -> Shortcut:
    """Tell from the names of published weights which shortcuts they are of."""
    return "padding" if "linear.weight" in names else "projection"


def _stage(blocks: int, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = Block(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(Block(outputs, outputs) for _ in range(blocks - 1)))
