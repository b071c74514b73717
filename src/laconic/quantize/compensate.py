"""The rounding of quantized weights by curvature, layer by layer, each behind the layers before it as they are by then.

Source: see `numeric.curvature` for the rounding, and `program.sequential` for what each layer aims at.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from laconic.numeric.curvature import compensated
from laconic.program import Program, Weight
from laconic.program.fold import assign
from laconic.program.forms import kept, quantizer_of
from laconic.program.layers import Layer
from laconic.program.represent import representations
from laconic.program.scaled import Scaled
from laconic.program.sequential import Turn, in_turn, layers_of, seen
from laconic.train.progress import bar


@torch.no_grad()
def compensate(program: Program, whole: Program, chosen: list[Weight], inputs: Tensor) -> list[str]:
    """Round the weights of a program, in place, whose quantizers are registered.

    Args:
        program: quantized; what its layers read comes from layers that are rounded already.
        whole: the program as it was before, of the same graph.
        chosen: the weights as they were before.
        inputs: calibration inputs, (examples, ...).

    Returns:
        The weights that stay rounded to nearest, because several layers or none of `program.layers` read them.
    """
    done = set[str]()
    with bar("rounding", 0, len(layers_of(chosen))) as tell:
        for turn in in_turn(program, whole, chosen, inputs):
            _round(program, turn)
            done.add(turn.layer.weight)
            tell(len(done), turn.layer.weight)
    return [weight.name for weight in chosen if weight.name not in done]


def compensator(layer: Layer, dense: Tensor, inputs: Tensor, keep: Tensor | None = None) -> Callable[[Scaled], Tensor]:
    """Return what rounds the weight of a layer alone to the levels of a quantizer, by the curvature on its inputs.

    Args:
        layer: what reads the weight.
        dense: the weight.
        inputs: what the layer reads, in the float network too.
        keep: True where entries are not held at zero; None: everywhere.
    """
    weight, values = dense.reshape(layer.groups, -1, layer.inputs), {layer.source: inputs}
    moments = torch.stack([one.moments.shrunk for one in seen(layer, weight, values, values)])

    def rounded(quantizer: Scaled) -> Tensor:
        return compensated(weight, moments, _columns(quantizer, keep, dense)).reshape(dense.shape).to(dense.dtype)

    return rounded


def _round(program: Program, turn: Turn) -> None:
    """Round the weight of the layer whose turn it is."""
    forms = representations(program, turn.layer.weight)
    quantizer, (weight, moments) = quantizer_of(forms), turn.aim()
    assert isinstance(quantizer, Scaled)
    found = compensated(weight, moments, _columns(quantizer, kept(forms), turn.dense))
    assign(program, turn.layer.weight, found.reshape(turn.dense.shape).to(turn.dense.dtype))


def _columns(quantizer: Scaled, keep: Tensor | None, dense: Tensor) -> Callable[[Tensor, int], Tensor]:
    """Return what rounds one column of the weight, (groups, out): to the grid, and to zero where a mask holds it."""
    by_entry, free = quantizer.by_entry(dense), None if keep is None else keep.flatten(1)

    def rounded(column: Tensor, position: int) -> Tensor:
        found = by_entry.select(1, torch.tensor([position], device=column.device))(column.reshape(-1, 1))
        held = found if free is None else torch.where(free[:, position : position + 1], found, 0.0)
        return held.reshape(column.shape)

    return rounded
