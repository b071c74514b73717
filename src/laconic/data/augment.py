"""Random changes of training images that keep their class.

Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2 (CIFAR-10).
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CropFlip:
    """Shift every image by up to `padding` pixels, and mirror half of them left to right."""

    padding: int = 4
    flip: bool = True
    border: Literal["constant", "replicate"] = "constant"  # what comes in: zeros, or the outermost pixels

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return a changed copy of `batch`.

        Args:
            batch: float, `(n, channels, height, width)`, normalised (so that zero is the mean colour).
            generator: the only source of randomness; may live on another device than the batch.
        """
        return self.apply(batch, self.draw(len(batch), generator))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw what becomes of `count` images: rows and columns to shift by, and whether each is mirrored, (count, 3) whole numbers."""
        shifts = self._draw((2, count), 2 * self.padding + 1, generator)
        return torch.cat([shifts, self._draw((1, count), 1 + self.flip, generator)]).T

    def apply(self, batch: Tensor, drawn: Tensor) -> Tensor:
        """Return a changed copy of `batch`, each image by its row of `drawn`."""
        count, channels, height, width = batch.shape
        top, left, mirrored = drawn.to(batch.device).T
        mirrored = mirrored[:, None].bool()
        rows = top[:, None] + torch.arange(height, device=batch.device)  # (n, height), in the padded image
        columns = torch.arange(width, device=batch.device).expand(count, -1)
        columns = left[:, None] + torch.where(mirrored, columns.flip(1), columns)  # (n, width)
        padded = F.pad(batch, [self.padding] * 4, self.border)
        image = torch.arange(count, device=batch.device)[:, None, None, None]
        channel = torch.arange(channels, device=batch.device)[:, None, None]
        return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]

    @staticmethod
    def _draw(shape: tuple[int, ...], high: int, generator: torch.Generator) -> Tensor:
        return torch.randint(high, shape, generator=generator, device=generator.device)
