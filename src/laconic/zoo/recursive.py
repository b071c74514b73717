"""A network that is one convolution: it looks for strokes, for parts made of them and for whole digits with the same few weights.

Sources: D. Eigen, J. Rolfe, R. Fergus, Y. LeCun, "Understanding Deep Architectures using a Recursive Convolutional Network", ICLR 2014
workshop (a convolution that is applied again and again); J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", arXiv:1607.06450,
2016 (here without gain and bias, so that nothing but the convolution has weights). Unlike Eigen et al. the first and the last layer are
no layers of their own: the first channel is the image, and at the end the first ten are the scores.
"""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

_CLASSES = 10


class Recursive(nn.Module):
    """A convolution of 3 x 3 that is applied at 28 x 28, 14 x 14 and 7 x 7 and, giving scores, at 3 x 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(n, 10)` of `(n, 1, 28, 28)`."""
        hidden = _halved(images, self.conv.weight[:, :1])
        hidden = _halved(hidden, self.conv.weight)
        hidden = _halved(hidden, self.conv.weight)
        logits: Tensor = self.conv(hidden)[:, :_CLASSES].flatten(1)
        return logits


def _halved(hidden: Tensor, weight: Tensor) -> Tensor:
    """Convolve, take the largest of each four neighbours, and normalize over all that is left of an image."""
    pooled = F.max_pool2d(F.conv2d(hidden, weight, padding=1), 2)
    return F.relu(F.layer_norm(pooled, pooled.shape[1:]))


def recursive(*, width: Annotated[int, Field(ge=_CLASSES)] = 16) -> nn.Module:
    """Build one convolution applied four times, after Eigen et al., "Understanding Deep Architectures ...", ICLR 2014: 2,304 weights.

    Args:
        width: channels; 9 times their square are all the weights there are.
    """
    return Recursive(width)
