"""Exponential moving average of the weights.

Source: B. Polyak, A. Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 1992; the decay grows as
(1 + batches) / (10 + batches) up to its value, so that a short training is not held back by the weights it started from.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@torch.no_grad()
def update(averages: dict[str, Tensor], parameters: dict[str, nn.Parameter], decay: float, done: int) -> None:
    """Move `averages`, in place, towards `parameters` after `done` batches: `average = decay * average + (1 - decay) * parameter`."""
    decay = min(decay, (1 + done) / (10 + done))
    torch._foreach_lerp_(list(averages.values()), [parameters[name] for name in averages], 1 - decay)


@contextmanager
def exchanged(averages: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> Iterator[None]:
    """Put the averages in the place of the parameters for the length of a block; buffers (running statistics) stay the model's own."""
    _exchange(averages, parameters)
    try:
        yield
    finally:
        _exchange(averages, parameters)


@torch.no_grad()
def _exchange(averages: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> None:
    for name, average in averages.items():
        held = parameters[name].clone()
        parameters[name].copy_(average)
        average.copy_(held)
