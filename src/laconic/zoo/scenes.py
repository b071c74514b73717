"""Two networks for dense prediction on small pictures: what every pixel is, and where things are.

Both read the picture at a half, a quarter and an eighth of its size with residual blocks, and bring what was seen at an eighth back to
finer maps, each joined with what was seen there.

Sources: O. Ronneberger, P. Fischer, T. Brox, "U-Net", MICCAI 2015, for the way back; T.-Y. Lin, P. Dollar, R. Girshick, K. He,
B. Hariharan, S. Belongie, "Feature Pyramid Networks for Object Detection", CVPR 2017, for joining by sums; Z. Tian, C. Shen, H. Chen,
T. He, "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, for the detector's answers.
"""

from math import log
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from laconic.zoo.resnet import Block

_RARE = 0.01  # what a detector that has seen nothing gives each class at each cell


class Encoder(nn.Module):
    """Reads a picture at a half, a quarter and an eighth of its size."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.to_half = _stage(width, width, 1, blocks)
        self.to_quarter = _stage(width, 2 * width, 2, blocks)
        self.to_eighth = _stage(2 * width, 4 * width, 2, blocks)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return maps of width, 2 width and 4 width channels."""
        half = self.to_half(F.relu(self.norm(self.stem(images))))
        quarter = self.to_quarter(half)
        return half, quarter, self.to_eighth(quarter)


class Join(nn.Module):
    """Brings a coarse map to twice its size and adds what was seen there."""

    def __init__(self, coarse: int, fine: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(coarse, outputs, 1, bias=False)
        self.across = nn.Conv2d(fine, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.smooth = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return a map of the fine one's size."""
        joined = F.interpolate(self.down(coarse), scale_factor=2.0, mode="nearest") + self.across(fine)
        return F.relu(self.smooth(F.relu(self.norm(joined))))


class Segmenter(nn.Module):
    """Gives every pixel a class."""

    def __init__(self, width: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(width, blocks)
        self.to_quarter = Join(4 * width, 2 * width, 2 * width)
        self.to_half = Join(2 * width, width, width)
        self.answer = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, classes, height, width) of pictures (batch, 3, height, width)."""
        half, quarter, eighth = self.encoder(images)
        answered = self.answer(self.to_half(self.to_quarter(eighth, quarter), half))
        return F.interpolate(answered, scale_factor=2.0, mode="bilinear", align_corners=False)


class Detector(nn.Module):
    """Gives every cell of a quarter of the picture's size the classes of things and how far their sides are."""

    def __init__(self, width: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(width, blocks)
        self.neck = Join(4 * width, 2 * width, 2 * width)
        self.head = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, 1, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.classes = nn.Conv2d(2 * width, classes, 3, 1, 1)
        self.sides = nn.Conv2d(2 * width, 4, 3, 1, 1)
        nn.init.constant_(self.classes.bias, log(_RARE / (1 - _RARE)))  # type: ignore[arg-type]
        nn.init.constant_(self.sides.bias, 2.0)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Return (batch, classes + 4, height / 4, width / 4) of pictures (batch, 3, height, width), as `measure.detection` reads it."""
        _, quarter, eighth = self.encoder(images)
        seen = self.head(self.neck(eighth, quarter))
        return torch.cat([self.classes(seen), F.relu(self.sides(seen))], 1)


def segmenter(
    *, width: Annotated[int, Field(ge=1)] = 32, blocks: Annotated[int, Field(ge=1)] = 1, classes: Annotated[int, Field(ge=1)] = 11
) -> nn.Module:
    """Build a U-Net (MICCAI 2015) with residual blocks and sums, for pictures whose sides are multiples of 8."""
    return Segmenter(width, blocks, classes)


def detector(
    *, width: Annotated[int, Field(ge=1)] = 32, blocks: Annotated[int, Field(ge=1)] = 1, classes: Annotated[int, Field(ge=1)] = 10
) -> nn.Module:
    """Build a one-stage detector after FCOS (ICCV 2019), with one map, for pictures whose sides are multiples of 8."""
    return Detector(width, blocks, classes)


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    """Return residual blocks, the first of which halves height and width where `stride` is 2."""
    return nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs) for _ in range(blocks - 1)))
