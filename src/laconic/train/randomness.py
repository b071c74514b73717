"""Chance in training: every epoch's is drawn from (seed, epoch) alone, and the caller's is left as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def order(examples: int, seed: int, epoch: int) -> Tensor:
    """Return the order, `(examples,)`, in which an epoch takes the examples."""
    return torch.randperm(examples, generator=torch.Generator().manual_seed(_seeds(seed, epoch)[0]))


def start_epoch(sources: list[torch.Generator], seed: int, epoch: int) -> None:
    """Seed every source for an epoch."""
    for source, number in zip(sources, _seeds(seed, epoch)[1:], strict=False):
        source.manual_seed(number)


@contextmanager
def sources(device: torch.device) -> Iterator[list[torch.Generator]]:
    """Yield what training draws from: its own generator, then torch's global ones (dropout), which are put back at the end."""
    shared = [torch.default_generator]
    if device.type == "cuda":
        current = torch.cuda.current_device()  # asked in any case: it makes the generators
        shared.append(torch.cuda.default_generators[current if device.index is None else device.index])
    states = [source.get_state() for source in shared]
    try:
        yield [torch.Generator(), *shared]
    finally:
        for source, state in zip(shared, states, strict=True):
            source.set_state(state)


def _seeds(seed: int, epoch: int) -> list[int]:
    return [int(number) for number in np.random.SeedSequence([seed, epoch]).generate_state(4, np.uint64)]
