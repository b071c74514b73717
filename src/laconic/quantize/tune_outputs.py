"""Output tuning: scales and biases of a quantized network learn together to give the outputs of the float network back.

Source: the bias tuning of I. Hubara, Y. Nahshan, Y. Hanani, R. Banner, D. Soudry, "Accurate Post Training Quantization With Small
Calibration Sets", ICML 2021, which learns the biases alone, towards the float network on the calibration inputs. Here the scales of
activations learn too (S. Esser et al., "Learned Step Size Quantization", ICLR 2020, eq. 3), and those of weights, whose codes stay. A part
of the inputs is held out: what is kept is what does best there, or the network as it was.
"""

from typing import Any

import torch
from torch import Tensor, fx

from laconic.numeric.rounding import broadcast
from laconic.program import Program, Uniform, Weight, place, read
from laconic.program.fold import assign
from laconic.program.observe import examples_at_once, observe
from laconic.program.represent import edges, representations
from laconic.quantize.correct import give_biases
from laconic.quantize.imitate import imitate, outputs_of, squared_error

_HELD_OUT = 4  # one of so many inputs is held out
_BATCH = 32
_STORED = 16  # so many times what a run takes is kept for the gradients
_RATE = 0.003  # of Adam: of scales as a share of them, of biases as a share of the outputs' root mean square
_MOMENTA = (0.9, 0.99)


class _Tunable(fx.Interpreter):
    """Runs a quantized program with scales and biases that are learned in place of its own; the codes of weights stay."""

    def __init__(self, program: Program, chosen: list[Weight], examples: Tensor) -> None:
        super().__init__(program)
        self._program = program
        readers = [reader for weight in chosen for reader in weight.readers]
        give_biases(program, readers)
        self._grids = {weight.name: grid for weight in chosen if (grid := _grid(program, weight.name))}
        self._codes = {name: grid.codes(read(program, name)).detach() for name, grid in self._grids.items()}
        self._biases = {name: read(program, name).detach() for name in (_bias_name(reader) for reader in readers)}
        self._sizes = dict[str, Tensor]()  # root mean square of what layers give, by the name of the bias
        observe(program, [(examples,)], readers, lambda node, value: self._sizes.update({_bias_name(node): value.square().mean().sqrt()}))
        self._gains = {name: torch.zeros_like(grid.scale).requires_grad_() for name, grid in self._grids.items()}
        self._shifts = {name: torch.zeros_like(bias).requires_grad_() for name, bias in self._biases.items()}
        self._steps = list({id(form): form.scale for form in edges(program).values() if isinstance(form, Uniform)}.values())

    @property
    def learned(self) -> list[Tensor]:
        """All that is learned."""
        return [*self._gains.values(), *self._shifts.values(), *self._steps]

    @property
    def batch(self) -> int:
        """As many as there is memory for, up to a limit."""
        return max(1, min(_BATCH, examples_at_once(self._program) // _STORED))

    def optimizer(self) -> torch.optim.Adam:
        """Return what learns everything at the same rate relative to its size."""
        relative = {"params": [*self._gains.values(), *self._shifts.values()], "lr": _RATE}
        return torch.optim.Adam(
            [relative, *({"params": [step], "lr": _RATE * float(step.detach())} for step in self._steps)], betas=_MOMENTA
        )

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a tensor as it is by now."""
        if target in self._gains:
            return self._codes[target] * broadcast(self._scale(target), self._codes[target], self._grids[target].axis)
        if target in self._shifts:
            return self._biases[target] + self._sizes[target] * self._shifts[target]
        return super().get_attr(target, args, kwargs)

    def _scale(self, weight: str) -> Tensor:
        return self._grids[weight].step.detach() * torch.exp(self._gains[weight])

    @torch.no_grad()
    def keep(self) -> None:
        """Give the program what was learned."""
        for name in self._biases:
            place(self._program, name, self.get_attr(name, (), {}))
        for name, grid in self._grids.items():
            weight = self.get_attr(name, (), {})
            grid.scale.copy_(self._scale(name))
            assign(self._program, name, weight)


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
    tunable = _Tunable(program.eval(), chosen, inputs[:_BATCH])
    wanted = outputs_of(whole, inputs)
    found = imitate(tunable, inputs, wanted, squared_error(wanted), len(inputs) // _HELD_OUT, epochs, generator)
    tunable.keep()
    return found


def _grid(program: Program, weight: str) -> Uniform | None:
    return next((form for form in representations(program, weight) if isinstance(form, Uniform)), None)


def _bias_name(layer: Any) -> str:
    return str(layer.args[2].target)
