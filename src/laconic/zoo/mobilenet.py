"""MobileNetV2 as TensorFlow published it, batch norm folded into the convolutions.

Source: M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
"""

import torch.nn.functional as F
from torch import Tensor, nn

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""The paper's table 2: expansion, channels, blocks, stride of the first block."""


class Convolution(nn.Module):
    """A convolution with TensorFlow's "same" padding, and ReLU6 where the block is not linear."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, linear: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups)
        self.linear = linear

    def forward(self, images: Tensor) -> Tensor:
        """Return `(n, outputs, ceil(h / stride), ceil(w / stride))` of `(n, inputs, h, w)`."""
        if self.conv.stride == (2, 2):  # kernel 3: an even side gets one zero, after it; an odd side gets one on each side
            height, width = images.shape[2:]
            images = F.pad(images, (width % 2, 1, height % 2, 1))
        hidden: Tensor = self.conv(images)
        return hidden if self.linear else F.relu6(hidden)


class InvertedResidual(nn.Module):
    """Expand the channels, convolve each by itself, project; the input is added where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        expand = [Convolution(inputs, wide)] if expansion > 1 else []
        depthwise = Convolution(wide, wide, 3, stride, groups=wide)
        self.layers = nn.Sequential(*expand, depthwise, Convolution(wide, outputs, linear=True))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        """Return `(n, outputs, h / stride, w / stride)` of `(n, inputs, h, w)`."""
        hidden: Tensor = self.layers(images)
        return images + hidden if self.residual else hidden


class MobileNetV2(nn.Module):
    """A stem, 17 inverted residual blocks, a 1 x 1 convolution to 1,280 channels, their mean, and a dense layer."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [Convolution(3, 32, 3, 2)]
        channels = 32
        for expansion, width, blocks, stride in _STAGES:
            for block in range(blocks):
                layers.append(InvertedResidual(channels, width, stride if block == 0 else 1, expansion))
                channels = width
        self.features = nn.Sequential(*layers, Convolution(channels, 1280))
        self.classifier = nn.Linear(1280, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(n, outputs)` of `(n, 3, 224, 224)`, normalised as `(bytes - 128) / 128`."""
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


def mobilenet_v2() -> nn.Module:
    """Build MobileNetV2 1.0 (Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018): 3,489,097 parameters.

    Its 1,001 classes are ImageNet's, after class 0, the background.
    """
    return MobileNetV2(1001)
