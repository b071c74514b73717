"""A VGG for images of 32 x 32: pairs of 3 x 3 convolutions between poolings, and the three dense layers that hold most of its weights.

Source: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, column B of table 1,
made small: three of the five stages, of `width` channels and more, with batch norm (S. Ioffe, C. Szegedy, ICML 2015).
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

_STAGES, _SIDE = 3, 32


class VGG(nn.Module):
    """Three stages of two convolutions, and a classifier of three dense layers."""

    def __init__(self, classes: int, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        layers, channels = list[nn.Module](), 3
        for stage in range(_STAGES):
            for inputs in (channels, wide := width << stage):
                layers += [nn.Conv2d(inputs, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = wide
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * (_SIDE >> _STAGES) ** 2, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(n, classes)` of `(n, 3, 32, 32)`."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def vgg(
    *,
    classes: Annotated[int, Field(ge=1)] = 10,
    width: Annotated[int, Field(ge=1)] = 32,
    hidden: Annotated[int, Field(ge=1)] = 1024,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
) -> nn.Module:
    """Build a small VGG (after Simonyan and Zisserman, ICLR 2015): 3,445,482 parameters, 3,157,002 of them in the dense layers.

    Each of its three stages has twice the channels of the one before, the first `width`; `hidden` neurons are in either hidden dense layer.
    """
    return VGG(classes, width, hidden, dropout)
