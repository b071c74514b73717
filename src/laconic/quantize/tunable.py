"""A quantized network, or a piece of it, whose scales and biases can be learned."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from laconic.numeric.rounding import broadcast
from laconic.program import Program, Uniform, Weight, place, read
from laconic.program.fold import assign
from laconic.program.observe import Piece, examples_at_once, observe
from laconic.program.represent import edges, representations

_BATCH = 32
_STORED = 16  # so many times what a run takes is kept for the gradients
_MOMENTA = (0.9, 0.99)


class Tunable(Piece):
    """Runs a piece of a quantized program with scales and biases that are learned in place of its own; the codes of weights stay.

    What the rest of the program reads too is not learned, but for the grids of activations that only later values share.
    """

    def __init__(self, program: Program, ends: tuple[str, str], chosen: list[Weight], sizes: Mapping[str, Tensor], rate: float) -> None:
        """Take a piece of a program whose layers have biases.

        Args:
            program: quantized; the weights lie on their grids.
            ends: the node that the piece begins behind, and its last.
            chosen: the quantized weights.
            sizes: root mean square of what layers give, by the names of their biases.
            rate: of Adam; of scales as a share of them, of biases as a share of the outputs' root mean square.
        """
        super().__init__(program, *ends)
        self._program, self._sizes, self._rate, inside = program, sizes, rate, set(self.nodes)
        readers = [reader for weight in chosen for reader in weight.readers if reader in inside]
        own = {str(node.target) for node in self.nodes if node.op == "get_attr" and inside.issuperset(node.users)}
        self.grids = {weight.name: grid for weight in chosen if weight.name in own and (grid := _grid(program, weight.name))}
        self._codes = {name: grid.codes(read(program, name)).detach() for name, grid in self.grids.items()}
        self._biases = {name: read(program, name).detach() for name in map(bias_name, readers) if name in own}
        self._gains = {name: torch.zeros_like(grid.scale).requires_grad_() for name, grid in self.grids.items()}
        self._shifts = {name: torch.zeros_like(bias).requires_grad_() for name, bias in self._biases.items()}
        nodes = list(program.graph.nodes)
        before = {id(form) for node, form in edges(program).items() if node in nodes[: nodes.index(self._start)]}
        forms = {id(form): form for node, form in edges(program).items() if node in inside}
        self._steps = [form.scale for key, form in forms.items() if key not in before and isinstance(form, Uniform)]

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
        relative = {"params": [*self._gains.values(), *self._shifts.values()], "lr": self._rate}
        steps = [{"params": [step], "lr": self._rate * float(step.detach())} for step in self._steps]
        return torch.optim.Adam([relative, *steps], betas=_MOMENTA)

    def codes(self, weight: str) -> Tensor:
        """Return the codes of a weight as they are by now."""
        return self._codes[weight]

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a tensor as it is by now."""
        if target in self._gains:
            codes = self.codes(target)
            return codes * broadcast(self._scale(target), codes, self.grids[target].axis)
        if target in self._shifts:
            return self._biases[target] + self._sizes[target] * self._shifts[target]
        return super().get_attr(target, args, kwargs)

    def _scale(self, weight: str) -> Tensor:
        return self.grids[weight].step.detach() * torch.exp(self._gains[weight])

    @torch.no_grad()
    def keep(self) -> None:
        """Give the program what was learned."""
        for name in self._biases:
            place(self._program, name, self.get_attr(name, (), {}))
        for name, grid in self.grids.items():
            weight = self.get_attr(name, (), {})
            grid.scale.copy_(self._scale(name))
            assign(self._program, name, weight)


def output_sizes(program: Program, layers: Iterable[fx.Node], examples: Tensor) -> dict[str, Tensor]:
    """Return the root mean square of what layers with biases give, by the names of the biases."""
    sizes = dict[str, Tensor]()
    observe(program, [(examples,)], list(layers), lambda node, value: sizes.update({bias_name(node): value.square().mean().sqrt()}))
    return sizes


def bias_name(layer: Any) -> str:
    """Return the name of a layer's bias."""
    return str(layer.args[2].target)


def _grid(program: Program, weight: str) -> Uniform | None:
    return next((form for form in representations(program, weight) if isinstance(form, Uniform)), None)
