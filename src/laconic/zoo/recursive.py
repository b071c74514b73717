"""A network that is one convolution: it looks for strokes, for parts made of them and for whole digits with the same few weights.

Sources: D. Eigen, J. Rolfe, R. Fergus, Y. LeCun, "Understanding Deep Architectures using a Recursive Convolutional Network", ICLR 2014
workshop (a convolution that is applied again and again); J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", arXiv:1607.06450,
2016 (here without gain and bias, so that nothing but the convolution has weights); W. Shi et al., "Real-Time Single Image and Video
Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016 (pixels as channels, there the other way).
Unlike Eigen et al. the first and the last layer are no layers of their own: the first channels are four neighbouring pixels of the image,
and the last time they are the scores.
"""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

_CLASSES = 10


class Recursive(nn.Module):
    """A convolution of 3 x 3 that is applied at 14 x 14, at 7 x 7 and, giving scores, at 3 x 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(n, 10)` of `(n, 1, 28, 28)`."""
        pixels = F.pixel_unshuffle(images, 2)
        hidden = _seen(pixels, self.conv.weight[:, : pixels.shape[1]])
        hidden = _seen(hidden, self.conv.weight)
        logits: Tensor = self.conv(hidden)[:, :_CLASSES].flatten(1)
        return logits


def _seen(images: Tensor, weight: Tensor) -> Tensor:
    """Convolve, normalize over an image's channels and places together, and keep the largest number of each square of four."""
    hidden = F.conv2d(images, weight, padding=1)
    return F.max_pool2d(F.relu(F.layer_norm(hidden, hidden.shape[1:])), 2)


def recursive(*, width: Annotated[int, Field(ge=10)] = 18) -> nn.Module:
    """Build one convolution applied three times, after Eigen et al., "Understanding Deep Architectures ...", ICLR 2014: 2,916 weights.

    Args:
        width: channels; 9 times their square are all the weights there are.
    """
    return Recursive(width)
