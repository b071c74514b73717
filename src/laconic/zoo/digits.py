"""A small residual network for scikit-learn's 8 x 8 digits, trained in seconds.

Source of its blocks: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.
"""

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from laconic.zoo.resnet import Block


class DigitsCNN(nn.Module):
    """A convolution, a block at 8 x 8, a block of twice the channels at 4 x 4, their mean, and a dense layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.block1 = Block(width, width)
        self.block2 = Block(width, 2 * width, stride=2)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(n, 10)` of `(n, 1, 8, 8)`."""
        hidden = F.relu(self.bn(self.conv(images)))
        hidden = self.block2(self.block1(hidden))
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


def digits_cnn(*, width: PositiveInt = 64) -> nn.Module:
    """Build a residual network after He et al., "Deep Residual Learning for Image Recognition", CVPR 2016: 306,122 parameters.

    Args:
        width: channels of the first block; the second has twice as many.
    """
    return DigitsCNN(width)
