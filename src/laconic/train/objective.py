"""What training minimises and what it is scored by."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from laconic.data.dataset import Split
from laconic.errors import LaconicError
from laconic.measure import accuracy
from laconic.train.detection import detection_loss

Loss: TypeAlias = Callable[..., Tensor]
"""Maps (model, inputs, labels) to a scalar. It calls the model itself, and so may call a teacher too.

Where batches hold more than inputs and labels, it is given that behind them.

It runs under autocast: outputs may be bfloat16, so take them `.float()` before a softmax or a difference.
"""

Score: TypeAlias = Callable[[nn.Module, Split], float]
"""Maps a model in eval mode and a split to a number; higher is better."""


def cross_entropy(model: nn.Module, inputs: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return what the model's outputs lose against the labels, see `label_loss`.

    Args:
        model: gives what `label_loss` takes.
        inputs: a batch `(n, ...)`.
        labels: of the same examples.
        smoothing: share of the target spread evenly over the classes, in [0, 1]; set it with `functools.partial`. Boxes have none.
    """
    return label_loss(model(inputs), labels, smoothing)


def label_loss(outputs: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of outputs; of boxes the loss of a detector.

    Args:
        outputs: logits `(n, classes)`; of sequences `(n, positions, classes)`; of maps `(n, classes, height, width)`; where there are
            boxes, see `train.detection`.
        labels: class numbers `(n,)`, `(n, positions)` or `(n, height, width)`; or float boxes `(n, most, 5)`.
        smoothing: share of the target spread evenly over the classes.

    Raises:
        LaconicError: what belongs to the examples are vectors.
    """
    outputs = outputs.float()
    if labels.is_floating_point():
        if labels.ndim != 3:
            raise LaconicError("this needs class labels, and the network is scored against its own outputs: leave --against network out")
        return detection_loss(outputs, labels)
    return F.cross_entropy(classes_last(outputs).flatten(0, -2), labels.flatten(), label_smoothing=smoothing)


def classes_last(outputs: Tensor) -> Tensor:
    """Return outputs with their classes in the last axis, where those of maps, `(n, classes, height, width)`, have them in the second."""
    return outputs.movedim(1, -1) if outputs.ndim == 4 else outputs


@torch.no_grad()
def mean_cosine(model: nn.Module, split: Split, batch: int = 64, device: torch.device | str = "cpu") -> float:
    """Return the mean cosine of the angle between outputs, flattened, and the vectors of the examples.

    Args:
        model: lies on `device`; it is left in eval mode there.
        split: examples with vectors.
        batch: how many are computed at once.
        device: where to compute.
    """
    model.eval()
    total = 0.0
    for inputs, wanted in split.batches(batch):
        outputs = model(inputs.to(device)).float().flatten(1)
        total += float(F.cosine_similarity(outputs, wanted.to(device)).double().sum())
    return total / len(split)


@torch.no_grad()
def top1(model: nn.Module, split: Split, batch: int = 256, device: torch.device | str = "cpu") -> float:
    """Return the share of labels, in [0, 1], whose logit is the largest; `model` is left in eval mode on its device.

    Args:
        model: lies on `device` and gives logits `(n, classes)`, or `(n, positions, classes)` of sequences.
        split: the examples.
        batch: how many are computed at once.
        device: where to compute.
    """
    model.eval()
    right = sum(int((model(inputs.to(device)).argmax(-1) == labels.to(device)).sum()) for inputs, labels in split.batches(batch))
    return right / split.labels.size


@torch.no_grad()
def log_likelihood(model: nn.Module, split: Split, batch: int = 16, device: torch.device | str = "cpu") -> float:
    """Return the mean logarithm, in nats, of the probability given to the labels: 0 at best; its negative's exponential is the perplexity.

    Args:
        model: lies on `device` and gives logits `(n, positions, classes)` or `(n, classes)`; it is left in eval mode there.
        split: the examples.
        batch: how many are computed at once.
        device: where to compute.
    """
    model.eval()
    total = 0.0
    for inputs, labels in split.batches(batch):
        chances = model(inputs.to(device)).float().log_softmax(-1)
        total += float(chances.gather(-1, labels.to(device)[..., None]).double().sum())
    return total / split.labels.size


@torch.no_grad()
def dense_score(model: nn.Module, split: Split, batch: int = 64, device: torch.device | str = "cpu") -> float:
    """Return the mean intersection over union of the classes of pixels, or the mean average precision of boxes at an overlap of a half.

    Args:
        model: lies on `device` and gives maps; it is left in eval mode there.
        split: examples with a class for every pixel, or with boxes.
        batch: how many are computed at once.
        device: where to compute.
    """
    model.eval()

    def predict(inputs: NDArray[Any]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = model(torch.from_numpy(inputs).to(device)).float().cpu().numpy()
        return outputs

    return accuracy(predict, split, batch).top1


def usual_score(model: nn.Module, split: Split, device: torch.device | str = "cpu") -> float:
    """Return what a network is scored by where nothing else is said: `top1`; of sequences `log_likelihood`, which tells more apart.

    Where examples have vectors it is `mean_cosine`, where they have maps or boxes `dense_score`.
    """
    if split.vectors:
        return mean_cosine(model, split, device=device)
    if split.maps or split.boxes:
        return dense_score(model, split, device=device)
    return log_likelihood(model, split, device=device) if split.sequences else top1(model, split, device=device)
