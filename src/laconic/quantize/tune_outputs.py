"""Output tuning: scales and biases of a quantized network learn together to give the outputs of the float network back.

Source: the bias tuning of I. Hubara, Y. Nahshan, Y. Hanani, R. Banner, D. Soudry, "Accurate Post Training Quantization With Small
Calibration Sets", ICML 2021, which learns the biases alone, towards the float network on the calibration inputs. Here the scales of
activations learn too (S. Esser et al., "Learned Step Size Quantization", ICLR 2020, eq. 3), and those of weights, whose codes stay. A part
of the inputs is held out: what is kept is what does best there, or the network as it was.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from laconic.program import Program, Weight
from laconic.program.observe import examples_at_once
from laconic.quantize.correct import give_biases
from laconic.quantize.tunable import Tunable, output_sizes
from laconic.train.progress import bar

_HELD_OUT = 4  # one of so many inputs is held out
_BATCH = 32
_STORED = 16  # so many times what a run takes is kept for the gradients
_RATE = 0.003  # of Adam: of scales as a share of them, of biases as a share of the outputs' root mean square


def tune_outputs(
    program: Program, whole: Program, chosen: list[Weight], inputs: Tensor, epochs: int, generator: torch.Generator
) -> tuple[float, float]:
    """Learn the scales and biases of a quantized program, in place.

    Args:
        program: quantized; the weights lie on their grids.
        whole: the network before.
        chosen: the quantized weights.
        inputs: calibration inputs, (examples, ...), two or more.
        epochs: over the inputs that are not held out.
        generator: which are held out, and the order of the others.

    Returns:
        The mean square error of the outputs on the inputs held out, as a share of their mean square, before and after.
    """
    order = torch.randperm(len(inputs), generator=generator)
    held, learning = order[: max(1, len(inputs) // _HELD_OUT)], order[max(1, len(inputs) // _HELD_OUT) :]
    tunable = _whole(program.eval(), chosen, inputs[:_BATCH])
    with torch.no_grad():
        wanted = torch.cat([_flat(whole.eval()(part)) for part in inputs.split(_BATCH)])
    size = wanted.square().mean().clamp_min(1e-12)

    def error(examples: Tensor) -> Tensor:
        return (_flat(tunable(inputs[examples])) - wanted[examples]).square().mean() / size

    @torch.no_grad()
    def held_error() -> float:
        return sum(float(error(part)) * len(part) for part in held.split(_BATCH)) / len(held)

    before = least = held_error()
    best = [each.detach().clone() for each in tunable.learned]
    with bar("outputs", 0, epochs) as tell:
        for epoch in _descended(tunable, error, learning, epochs, generator):
            now = held_error()
            if now < least:
                least, best = now, [each.detach().clone() for each in tunable.learned]
            tell(epoch + 1, f"{now:.4f}")
    tunable.keep(best)
    return before, least


def _whole(program: Program, chosen: list[Weight], examples: Tensor) -> Tunable:
    layers = [reader for weight in chosen for reader in weight.readers]
    give_biases(program, layers)
    [start] = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    return Tunable(program, start, "output", chosen, output_sizes(program, layers, examples))


def _descended(
    tunable: Tunable, error: Callable[[Tensor], Tensor], learning: Tensor, epochs: int, generator: torch.Generator
) -> Iterator[int]:
    """Go down the error on the examples `learning`, at a rate that falls to nothing on a half cosine; yield after each epoch."""
    learned, optimizer = tunable.learned, tunable.optimizer(_RATE)
    batch = max(1, min(_BATCH, examples_at_once(tunable.module) // _STORED))  # type: ignore[arg-type]
    total = epochs * -(-len(learning) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for epoch in range(epochs):
        for part in learning[torch.randperm(len(learning), generator=generator)].split(batch):
            slopes = torch.autograd.grad(error(part), learned, allow_unused=True, materialize_grads=True)
            for each, slope in zip(learned, slopes, strict=True):
                each.grad = slope
            optimizer.step()
            schedule.step()
        yield epoch


def _flat(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return all outputs of each example in one row."""
    return torch.cat([each.flatten(1) for each in (outputs if isinstance(outputs, tuple) else (outputs,))], 1)
