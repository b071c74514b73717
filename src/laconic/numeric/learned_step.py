"""Rounding to multiples of a step that is learned with the weights.

Source: S. Esser, J. McKinstry, D. Bablani, R. Appuswamy, D. Modha, "Learned Step Size Quantization", ICLR 2020, eqs. 1-3. The clipping
points of activations move with their step, which is also how they are learned in J. Choi et al., "PACT: Parameterized Clipping
Activation for Quantized Neural Networks", arXiv:1805.06085.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from laconic.numeric import learned_step_loops as loops
from laconic.numeric.compiled import compiled, is_compiled

aten: Any = torch.ops.aten
_WORTH_A_CALL = 1 << 14  # entries


def learned_step(x: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return `step * clamp(round(x / step), low, high)`; the gradient passes rounding unchanged and stops where values are clipped.

    The derivative with respect to the step is `round(x / step) - x / step` inside the range, and `low` or `high` outside (eq. 3).

    Args:
        x: any shape and floating type, which the result has too; computed in float32.
        step: positive; a scalar, or of a shape that broadcasts to that of `x`.
        low: least multiple, a whole number; a scalar, or of the shape of `step`.
        high: greatest multiple, likewise.
    """
    if torch.is_grad_enabled() and (x.requires_grad or step.requires_grad):
        rounded: Tensor = _LearnedStep.apply(x, step, low, high)  # type: ignore[no-untyped-call]
        return rounded
    return _levels(x.float() / step, step, low, high).to(x.dtype)


def _levels(ratio: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the levels; a zero is a positive one, as codes decode to."""
    return nearest_multiple(ratio, low, high).mul_(step).add_(0.0)


def nearest_multiple(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return `clamp(round(x), low, high)` for whole `low` and `high`; ties go to even numbers."""
    if _is_one(low, high):
        return torch.clamp(x, float(low), float(high)).round_()
    return torch.clamp(x, low, high).round_()


def _is_one(low: Tensor, high: Tensor) -> bool:
    """Say whether bounds are single numbers on the CPU, known ones, where operations that take numbers are several times as fast."""
    if torch.compiler.is_compiling():  # which knows no values
        return False
    return low.numel() == high.numel() == 1 and low.device.type == "cpu" and type(low) is type(high) is Tensor


def _inside(gradient: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the gradient where `low <= x <= high`, and 0 elsewhere."""
    if not _is_one(low, high):
        return gradient * ((x >= low) & (x <= high))
    below, above = (float(torch.nextafter(bound.float(), bound.float() + side)) for bound, side in ((low, -1), (high, 1)))
    passed: Tensor = aten.hardtanh_backward(gradient, x, below, above)  # which passes between its bounds, without them
    return passed


def _in_one_pass(x: Tensor, step: Tensor, low: Tensor, high: Tensor) -> bool:
    """Say whether compiled loops can do it: ten times as fast as one operation after another, for it is memory that takes time."""
    if torch.compiler.is_compiling():  # which makes such loops itself
        return False
    numbers = x.dtype in (torch.float32, torch.bfloat16) and x.numel() >= _WORTH_A_CALL and type(x) is Tensor
    return numbers and step.numel() == 1 and _is_one(low, high) and aten.is_non_overlapping_and_dense(x) and is_compiled()


def _looped(name: str, tensors: tuple[Tensor, ...], step: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, float]:
    """Run a loop over tensors that lie alike in memory; returns what it wrote, laid out like them, and what it returned."""
    made = torch.empty_like(tensors[0])
    if made.dtype == torch.bfloat16:
        name += "16"
    arrays = [_numbers(each) for each in (*tensors, made)]
    settings = [np.float32(each.item()) for each in (step, low, high)]
    return made, getattr(compiled(loops, loops.NAMES), name)(*arrays[:-1], *settings, arrays[-1])


def _numbers(tensor: Tensor) -> Any:
    """Return the numbers of a dense tensor as they lie in memory; of bfloat16 their bits."""
    flat = tensor.detach().as_strided((tensor.numel(),), (1,))
    return (flat.view(torch.uint16) if tensor.dtype == torch.bfloat16 else flat).numpy()


class _LearnedStep(torch.autograd.Function):
    """The operation with its gradient written out, for it runs on every activation of every batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward(x, step, low, high)
        if _in_one_pass(x, step, low, high):
            return _looped("value", (x,), step, low, high)[0]
        return _levels(x.float() / step, step, low, high).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, step, low, high = ctx.saved_tensors
        if _in_one_pass(x, step, low, high):
            alike = torch.empty_like(x).copy_(gradients[0]) if gradients[0].stride() != x.stride() else gradients[0]
            to_inputs, to_step = _looped("gradient", (x, alike), step, low, high)
            return to_inputs, torch.full_like(step, to_step), None, None
        ratio, gradient = x.float() / step, gradients[0].float()
        passed = _inside(gradient, ratio, low, high)
        slopes = nearest_multiple(ratio, low, high).mul_(gradient).sub_(ratio * passed) if ctx.needs_input_grad[1] else None
        return passed.to(gradients[0].dtype), None if slopes is None else slopes.sum_to_size(step.shape), None, None
