"""What training minimises and what it is scored by."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from laconic.data.dataset import Split

Loss: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Maps (model, inputs, labels) to a scalar. It calls the model itself, and so may call a teacher too.

It runs under autocast: outputs may be bfloat16, so take them `.float()` before a softmax or a difference.
"""

Score: TypeAlias = Callable[[nn.Module, Split], float]
"""Maps a model in eval mode and a split to a number; higher is better."""


def cross_entropy(model: nn.Module, inputs: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of the model's logits.

    Args:
        model: gives logits `(n, classes, ...)`.
        inputs: a batch `(n, ...)`.
        labels: class numbers `(n, ...)`.
        smoothing: share of the target spread evenly over the classes, in [0, 1]; set it with `functools.partial`.
    """
    return F.cross_entropy(model(inputs).float(), labels, label_smoothing=smoothing)


@torch.no_grad()
def top1(model: nn.Module, split: Split, batch: int = 256, device: torch.device | str = "cpu") -> float:
    """Return the share of examples, in [0, 1], whose largest logit is their label's; `model` is left in eval mode on its device.

    Args:
        model: lies on `device` and gives logits `(n, classes)`.
        split: the examples.
        batch: how many are computed at once.
        device: where to compute.
    """
    model.eval()
    right = sum(int((model(inputs.to(device)).argmax(1) == labels.to(device)).sum()) for inputs, labels in split.batches(batch))
    return right / len(split)
