"""Activation-aware scaling: weights that read large inputs are made larger before they are rounded, so that their error weighs less.

Source: J. Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", MLSys 2024, section 3.2: input
channel j is divided by s_j and its weights multiplied by it (eq. 2); s = s_X^a, with s_X the mean magnitude of the inputs and a from a
grid over [0, 1], is the one of least squared error of the outputs after rounding (eq. 4 and 5); its middle is moved to 1, as in the
authors' code. That error is had from the second moments of the inputs here, since E |(V - W) x|^2 = tr (V - W) E[x x^T] (V - W)^T.

The division is folded into the norm or linear layer that makes the inputs, through a product or ReLU. Where that is not possible, layers
stay as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from laconic.numeric.moments import Moments
from laconic.program import Program, Weight, read
from laconic.program.fold import assign
from laconic.program.observe import examples_at_once, observe
from laconic.quantize.smooth import divide, linear_readers, makers

_STRENGTHS = 20  # steps of the grid of exponents, besides 0
_NEGLIGIBLE = 1e-4  # share of the mean input below which a channel is as large as that share
_EXAMPLES = 128  # at most so many are run at once


@dataclass
class _Inputs:
    """What is known of the inputs of linear layers."""

    moments: Moments
    magnitudes: Tensor  # (in,), the sum over examples of the mean over positions

    def add(self, value: Tensor) -> None:
        rows = value.flatten(0, -2)
        self.moments.add(rows, len(value))
        self.magnitudes += rows.abs().mean(0) * len(value)


def activation_scale(magnitudes: Tensor, strength: float) -> Tensor:
    """Return what to multiply the weights of input channels by: `s_X^a`, divided by the geometric mean of its extremes.

    Args:
        magnitudes: (channels,) mean magnitude of each input.
        strength: a; 0 gives ones.

    >>> activation_scale(torch.tensor([1.0, 4.0, 16.0]), 0.5)
    tensor([0.5000, 1.0000, 2.0000])
    """
    scale = magnitudes.clamp_min(_NEGLIGIBLE * float(magnitudes.mean()) or 1.0) ** strength
    return scale / (scale.max() * scale.min()).sqrt()


def scale_by_activations(program: Program, chosen: list[Weight], inputs: Tensor, rounded: Callable[[Weight], Tensor]) -> tuple[int, int]:
    """Scale the inputs of linear layers before their weights are rounded, in place; what the program computes stays the same.

    Args:
        program: not quantized where the chosen weights are.
        chosen: the weights to be rounded.
        inputs: calibration inputs, (examples, ...).
        rounded: gives the values that a weight is rounded to.

    Returns:
        How many linear layers are scaled, and how many there are.
    """
    readers = linear_readers(program, chosen)
    foldable = {source: names for source, layers in readers.items() if (names := makers(program, source, layers))}
    found, scaled = _inputs_of(program, list(foldable), inputs), 0
    for source, names in foldable.items():
        read_by = {str(layer.all_input_nodes[1].target) for layer in readers[source]}
        own = [replace(weight, value=read(program, weight.name).detach()) for weight in chosen if weight.name in read_by]
        scale = _best(own, found[source], rounded)
        if scale is None:
            continue
        for weight in own:
            with torch.no_grad():
                assign(program, weight.name, weight.value * scale)
        divide(program, names, scale)
        scaled += len(own)
    return scaled, sum(weight.kind == "linear" for weight in chosen)


def _inputs_of(program: Program, sources: list[fx.Node], inputs: Tensor) -> dict[fx.Node, _Inputs]:
    found = dict[fx.Node, _Inputs]()

    def look(node: fx.Node, value: Tensor) -> None:
        if node not in found:
            found[node] = _Inputs(Moments.of(value.shape[-1]), torch.zeros(value.shape[-1], device=value.device))
        found[node].add(value.float())

    observe(program, ((part,) for part in inputs.split(min(_EXAMPLES, examples_at_once(program)))), sources, look)
    return found


def _best(layers: list[Weight], inputs: _Inputs, rounded: Callable[[Weight], Tensor]) -> Tensor | None:
    """Return the scale on the grid of least squared error of the outputs of layers that read the same; None: they stay as they are."""
    moments, magnitudes = inputs.moments.mean.to(layers[0].value), inputs.magnitudes / inputs.moments.examples

    def error(scale: Tensor | float) -> float:
        lacks = [rounded(replace(weight, value=weight.value * scale)) / scale - weight.value for weight in layers]
        return sum(float(((lack @ moments) * lack).sum()) for lack in lacks)

    candidates = [activation_scale(magnitudes, step / _STRENGTHS) for step in range(1, _STRENGTHS + 1)]
    least, best = error(1.0), None
    for scale in candidates:
        if (now := error(scale)) < least:
            least, best = now, scale
    return best
