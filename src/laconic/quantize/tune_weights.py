"""Weight tuning: all of a network with quantized weights learns to give the outputs of the float network back, on inputs without labels.

Source: Z. Liu et al., "LLM-QAT: Data-Free Quantization Aware Training for Large Language Models", Findings of ACL 2024, section 3.1 (the
float network teaches, its outputs alone); S. Esser et al., "Learned Step Size Quantization", ICLR 2020 (weights learn behind the rounding,
whose gradient is straight through, and steps with them, eq. 3). Zero points stay. Where the source trains from rounding to nearest, this
starts from whatever the rounding has left, which is what is kept if nothing does better.
"""

import math

import torch
from torch import Tensor

from laconic.program import Program, weights
from laconic.program.observe import examples_at_once
from laconic.quantize.imitate import Distance, divergence, imitate, outputs_of, squared_error
from laconic.train.optimizer import scales

_HELD_OUT = 8  # one of so many inputs is held out
_BATCH = 8
_STORED = 16  # so many times what a run takes is kept for the gradients
_RATE = 0.04  # of Adam: of a tensor as a share of its root mean square, times the share of the weights that rounding has changed
_SCALE_RATE = 0.015  # of scales, likewise
_MOMENTA = (0.9, 0.99)


class _Whole:
    """A network all of which learns; a tensor that is zero everywhere stays so, which has no size to go by."""

    def __init__(self, program: Program, lost: float) -> None:
        """Take the network and what rounding has changed of its weights, as a share of them; the less that is, the slower all moves."""
        self._program, self._lost = program, lost
        self._scales = scales(program)
        self.run = program
        self.learned: list[Tensor] = [each for each in program.parameters() if each.requires_grad]

    @property
    def batch(self) -> int:
        """As many as there is memory for, up to a limit."""
        return max(1, min(_BATCH, examples_at_once(self._program) // _STORED))

    def optimizer(self) -> torch.optim.Optimizer:
        """Return what moves everything at a rate relative to its size."""
        groups = [{"params": [each], "lr": self._rate(each)} for each in self.learned]
        return torch.optim.Adam(groups, betas=_MOMENTA, fused=True)

    def _rate(self, tensor: Tensor) -> float:
        rate = _SCALE_RATE if tensor in self._scales else _RATE
        return rate * self._lost * float(tensor.detach().square().mean().sqrt())


def _lost(program: Program, whole: Program) -> float:
    """Return the root mean square of what rounding has changed of the weights, as a share of theirs."""
    pairs = [(now.value, before.value) for now, before in zip(weights(program), weights(whole), strict=True)]
    changed = sum(float((now - before).square().sum()) for now, before in pairs)
    return math.sqrt(changed / max(sum(float(before.square().sum()) for _, before in pairs), 1e-12))


def tune_weights(
    program: Program, whole: Program, inputs: Tensor, loss: str, epochs: int, generator: torch.Generator
) -> tuple[float, float]:
    """Learn the weights, scales, norms and biases of a network with quantized weights, in place; what lies on a grid stays there.

    Args:
        program: quantized, as rounding has left it.
        whole: the network before.
        inputs: calibration inputs, (examples, ...), two or more.
        loss: `divergence` of outputs that are logits, or `square` of any.
        epochs: over the inputs that are not held out.
        generator: which are held out, and the order of the others.

    Returns:
        The loss on the inputs held out, before and after.
    """
    wanted = outputs_of(whole, inputs)
    distance: Distance = divergence if loss == "divergence" else squared_error(wanted)
    return imitate(_Whole(program.eval(), _lost(program, whole)), inputs, wanted, distance, len(inputs) // _HELD_OUT, epochs, generator)
