"""The loop in which a quantized network learns, on calibration inputs alone, to give the outputs of the float network back.

Source: I. Hubara, Y. Nahshan, Y. Hanani, R. Banner, D. Soudry, "Accurate Post Training Quantization With Small Calibration Sets", ICML
2021 (towards the float network, without labels); Z. Liu et al., "LLM-QAT: Data-Free Quantization Aware Training for Large Language
Models", Findings of ACL 2024, section 3.1 (the divergence of token outputs). A part of the inputs is held out: what is kept is what does
best there, or the network as it was.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from laconic.program import Program
from laconic.train.imitation import softened_divergence
from laconic.train.progress import bar

_BATCH = 32  # inputs of a run without gradients

Outputs: TypeAlias = tuple[Tensor, ...]
Distance: TypeAlias = Callable[[Outputs, Outputs], Tensor]
"""How far outputs are from those wanted, the mean over the examples."""


class Learner(Protocol):
    """A network of which something learns."""

    @property
    def learned(self) -> list[Tensor]:
        """All that is learned."""

    @property
    def batch(self) -> int:
        """How many examples it learns from at once."""

    def optimizer(self) -> torch.optim.Optimizer:
        """Return what moves all that is learned."""

    def run(self, inputs: Tensor, /) -> Any:
        """Return the outputs as they are by now."""


def squared_error(wanted: Outputs) -> Distance:
    """Return the mean square error, all outputs of an example taken together, as a share of the mean square of those wanted."""
    size = _flat(wanted).square().mean().clamp_min(1e-12)
    return lambda outputs, others: (_flat(outputs) - _flat(others)).square().mean() / size


def divergence(outputs: Outputs, wanted: Outputs) -> Tensor:
    """Return `KL(softmax(wanted) || softmax(outputs))` in nats, over the last axis, the mean over examples and positions."""
    each = [softened_divergence(ours, theirs, 1.0) for ours, theirs in zip(outputs, wanted, strict=True)]
    return torch.stack(each).mean()


@torch.no_grad()
def outputs_of(whole: Program, inputs: Tensor) -> Outputs:
    """Return all outputs of a network in eval mode."""
    parts = [_outputs(whole.eval()(part)) for part in inputs.split(_BATCH)]
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def imitate(
    learner: Learner, inputs: Tensor, wanted: Outputs, distance: Distance, held_out: int, epochs: int, generator: torch.Generator
) -> tuple[float, float]:
    """Let a network learn to give the outputs wanted, in place.

    Args:
        learner: the network and what of it learns.
        inputs: (examples, ...), two or more.
        wanted: the outputs for them.
        distance: what is to become small.
        held_out: how many examples tell which epoch is kept; at least one is, and one is learned from.
        epochs: over the others.
        generator: which are held out, and the order of the others.

    Returns:
        The distance on the inputs held out, before and after.
    """
    held, learning = torch.randperm(len(inputs), generator=generator).tensor_split([min(max(1, held_out), len(inputs) - 1)])

    def lost(examples: Tensor) -> Tensor:
        return distance(_outputs(learner.run(inputs[examples])), tuple(each[examples] for each in wanted))

    @torch.no_grad()
    def held_lost() -> float:
        return sum(float(lost(part)) * len(part) for part in held.split(_BATCH)) / len(held)

    before = least = held_lost()
    best = _copies(learner.learned)
    with bar("outputs", 0, epochs) as tell:
        for epoch in _descended(learner, lost, learning, epochs, generator):
            now = held_lost()
            if now < least:
                least, best = now, _copies(learner.learned)
            tell(epoch + 1, f"{now:.4f}")
    with torch.no_grad():
        for tensor, value in zip(learner.learned, best, strict=True):
            tensor.copy_(value)
            tensor.grad = None
    return before, least


def _descended(
    learner: Learner, lost: Callable[[Tensor], Tensor], learning: Tensor, epochs: int, generator: torch.Generator
) -> Iterator[int]:
    """Go down what is lost on the examples `learning`, at a rate that falls to nothing on a half cosine; yield after each epoch."""
    learned, optimizer = learner.learned, learner.optimizer()
    total = epochs * -(-len(learning) // learner.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for epoch in range(epochs):
        for part in learning[torch.randperm(len(learning), generator=generator)].split(learner.batch):
            slopes = torch.autograd.grad(lost(part), learned, allow_unused=True, materialize_grads=True)
            for each, slope in zip(learned, slopes, strict=True):
                each.grad = slope
            optimizer.step()
            schedule.step()
        yield epoch


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    return [each.detach().clone() for each in tensors]


def _outputs(given: Any) -> Outputs:
    return given if isinstance(given, tuple) else (given,)


def _flat(outputs: Outputs) -> Tensor:
    """Return all outputs of each example in one row."""
    return torch.cat([each.flatten(1) for each in outputs], 1)
