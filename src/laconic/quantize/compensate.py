"""The rounding of quantized weights by curvature, layer by layer, each behind the layers before it as they are by then.

Source: see `numeric.curvature`. The moments of the inputs are shrunk by how uncertain the calibration examples leave them (see
`numeric.moments`).
"""

from collections.abc import Callable

import torch
from torch import Tensor, fx

from laconic.numeric.curvature import compensated
from laconic.numeric.moments import Moments
from laconic.program import Program, Weight, read
from laconic.program.fold import assign
from laconic.program.forms import kept, quantizer_of
from laconic.program.layers import Layer, layer_at
from laconic.program.observe import examples_at_once, stepwise
from laconic.program.represent import representations
from laconic.program.scaled import Scaled
from laconic.train.progress import bar

_ROWS = 1 << 18  # of a layer's inputs at once


@torch.no_grad()
def compensate(program: Program, chosen: list[Weight], inputs: Tensor) -> list[str]:
    """Round the weights of a program, in place, whose quantizers are registered.

    Args:
        program: quantized; what its layers read comes from layers that are rounded already.
        chosen: the weights as they were before.
        inputs: calibration inputs, (examples, ...).

    Returns:
        The weights that stay rounded to nearest, because several layers or none of `program.layers` read them.
    """
    layers = {weight.readers[0]: layer for weight in chosen if len(weight.readers) == 1 and (layer := layer_at(weight.readers[0]))}
    dense, done = {weight.name: weight.value for weight in chosen}, set[str]()
    with bar("rounding", 0, len(layers)) as tell:
        for node, values in stepwise(program.eval(), (inputs[: examples_at_once(program)],)):
            if node in layers:
                _round(program, layers[node], dense[layers[node].weight], values)
                done.add(layers[node].weight)
                tell(len(done), layers[node].weight)
    return [weight.name for weight in chosen if weight.name not in done]


def compensator(layer: Layer, dense: Tensor, inputs: Tensor, keep: Tensor | None = None) -> Callable[[Scaled], Tensor]:
    """Return what rounds the weight of a layer to the levels of a quantizer, by the curvature on its inputs.

    Args:
        layer: what reads the weight.
        dense: the weight.
        inputs: what the layer reads.
        keep: True where entries are not held at zero; None: everywhere.
    """
    moments = torch.stack([each.shrunk for each in _moments(layer, inputs)])

    def rounded(quantizer: Scaled) -> Tensor:
        found = compensated(dense.reshape(layer.groups, -1, layer.inputs), moments, _columns(quantizer, keep, dense))
        return found.reshape(dense.shape).to(dense.dtype)

    return rounded


def _round(program: Program, layer: Layer, dense: Tensor, values: dict[fx.Node, Tensor]) -> None:
    forms = representations(program, layer.weight)
    quantizer = quantizer_of(forms)
    assert isinstance(quantizer, Scaled)
    assign(program, layer.weight, compensator(layer, dense, values[layer.source], kept(forms))(quantizer))
    values[layer.node.all_input_nodes[1]] = read(program, layer.weight)


def _moments(layer: Layer, inputs: Tensor) -> list[Moments]:
    """Return the moments of the inputs of each group."""
    found = [Moments.of(layer.inputs) for _ in range(layer.groups)]
    step = max(1, _ROWS // max(1, layer.rows(inputs[:1]).shape[0]))
    for part in inputs.split(step):
        rows = layer.rows(part)
        for moments, own in zip(found, rows.split(layer.inputs, 1), strict=True):
            moments.add(own, len(part))
    return found


def _columns(quantizer: Scaled, keep: Tensor | None, dense: Tensor) -> Callable[[Tensor, int], Tensor]:
    """Return what rounds one column of the weight, (groups, out): to the grid, and to zero where a mask holds it."""
    by_entry, free = quantizer.by_entry(dense), None if keep is None else keep.flatten(1)

    def rounded(column: Tensor, position: int) -> Tensor:
        found = by_entry.select(1, torch.tensor([position], device=column.device))(column.reshape(-1, 1))
        held = found if free is None else torch.where(free[:, position : position + 1], found, 0.0)
        return held.reshape(column.shape)

    return rounded
