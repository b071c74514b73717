"""A network for short sounds: convolutions over time, a gated recurrent unit, and the mean of what it says.

Source: after S. Arik et al., "Convolutional Recurrent Neural Networks for Small-Footprint Keyword Spotting", Interspeech 2017 (there with
convolutions over pitch as well).
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn


class Speech(nn.Module):
    """Two convolutions over time, each halving it, a recurrent layer and a linear one."""

    def __init__(self, width: int, bands: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(bands, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(width)
        self.conv2, self.norm2 = nn.Conv1d(width, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits for sounds (batch, bands, frames)."""
        x = self.norm1(self.conv1(x)).relu()
        x = self.norm2(self.conv2(x)).relu()
        said, _ = self.gru(x.transpose(1, 2))
        logits: Tensor = self.fc(self.dropout(said.mean(1)))
        return logits


def speech(
    *, width: Annotated[int, Field(ge=1)] = 128, bands: Annotated[int, Field(ge=1)] = 40, classes: Annotated[int, Field(ge=1)] = 10
) -> nn.Module:
    """Build the network of "Convolutional Recurrent Neural Networks for Small-Footprint Keyword Spotting", Interspeech 2017, made small.

    At width 128 it has 208 thousand weights, at 32 18 thousand, at 16 six thousand.
    """
    return Speech(width, bands, classes)
