"""The rounding of quantized weights by curvature, layer by layer, each behind the layers before it as they are by then.

Source: see `numeric.curvature`. The moments of the inputs are shrunk by how uncertain the calibration examples leave them (see
`numeric.moments`). What a layer is to compute is what it computed in the float network, on the inputs that it had there: Y. Li et al.,
"GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", ICML 2025, section 3. Ours moves the weight to the least
squares solution before it is rounded, in place of a term in every update; and where the layer's output is added to something else, to
the sum that the float network had, so that a residual stream does not gather the errors of its layers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from laconic.numeric.curvature import compensated
from laconic.numeric.elimination import damped
from laconic.numeric.moments import Moments
from laconic.program import Program, Weight, read
from laconic.program.fold import assign
from laconic.program.forms import kept, quantizer_of
from laconic.program.layers import Layer, layer_at
from laconic.program.observe import examples_at_once, stepwise
from laconic.program.represent import representations
from laconic.program.scaled import Scaled
from laconic.train.progress import bar

aten = torch.ops.aten

_ROWS = 1 << 18  # of a layer's inputs at once
_DAMPING = 0.01  # of the regression, as a share of the mean square of the inputs


@dataclass
class _Seen:
    """What calibration tells of a group of a layer's outputs."""

    moments: Moments  # of the inputs
    products: Tensor  # (in, out), float64: sum over positions of the inputs times what the outputs lack

    def correction(self) -> Tensor:
        """Return what the weight lacks, (out, in): the regression of the outputs' lack on the inputs, as far as these can be trusted."""
        moments = damped(self.moments.shrunk, _DAMPING)
        lack = (1 - self.moments.doubt) * self.products / self.moments.examples
        found: Tensor = torch.linalg.solve(moments, lack).T
        return found


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
    layers = {weight.readers[0]: layer for weight in chosen if len(weight.readers) == 1 and (layer := layer_at(weight.readers[0]))}
    dense, done = {weight.name: weight.value for weight in chosen}, set[str]()
    with bar("rounding", 0, len(layers)) as tell:
        at_once, twins = max(1, examples_at_once(program) // 2), dict[fx.Node, fx.Node]()
        both = (stepwise(each.eval(), (inputs[:at_once],)) for each in (program, whole))
        for (node, values), (twin, wanted) in zip(*both, strict=True):
            twins[node] = twin
            if node in layers:
                read_here = [layers[node].source, *_added(node, values)]
                _round(program, layers[node], dense[layers[node].weight], values, {each: wanted[twins[each]] for each in read_here})
                done.add(layers[node].weight)
                tell(len(done), layers[node].weight)
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
    moments = torch.stack([one.moments.shrunk for one in _seen(layer, weight, values, values)])

    def rounded(quantizer: Scaled) -> Tensor:
        return compensated(weight, moments, _columns(quantizer, keep, dense)).reshape(dense.shape).to(dense.dtype)

    return rounded


def _added(node: fx.Node, values: dict[fx.Node, Tensor]) -> list[fx.Node]:
    """Return what the output of a layer, and nothing else of it, is added to, where that is known by then: one node or none."""
    while len(node.users) == 1:
        [user] = node.users
        if user.target is aten.add.Tensor and not user.kwargs:
            others = [each for each in user.all_input_nodes if each is not node]
            return [each for each in others if each in values and values[each].shape[1:] == node.meta["val"].shape[1:]]
        if user.target is not aten.dropout.default:
            break
        node = user
    return []


def _round(program: Program, layer: Layer, dense: Tensor, values: dict[fx.Node, Tensor], wanted: dict[fx.Node, Tensor]) -> None:
    """Round one layer's weight.

    Args:
        program: as it stands before the layer.
        layer: the layer.
        dense: its weight as it was.
        values: what there is now.
        wanted: what the float network has for what the layer reads and for what its output is added to.
    """
    weight = dense.reshape(layer.groups, -1, layer.inputs)
    seen = _seen(layer, weight, values, wanted)
    moments, corrections = (torch.stack(each) for each in zip(*((one.moments.shrunk, one.correction()) for one in seen), strict=True))
    forms = representations(program, layer.weight)
    quantizer = quantizer_of(forms)
    assert isinstance(quantizer, Scaled)
    found = compensated(weight + corrections.to(weight), moments, _columns(quantizer, kept(forms), dense))
    assign(program, layer.weight, found.reshape(dense.shape).to(dense.dtype))
    values[layer.node.all_input_nodes[1]] = read(program, layer.weight)


def _seen(layer: Layer, weight: Tensor, values: dict[fx.Node, Tensor], wanted: dict[fx.Node, Tensor]) -> list[_Seen]:
    """Return what the calibration inputs tell of each group of outputs; `weight` is (groups, out, in)."""
    groups, outputs, inputs = weight.shape
    found = [_Seen(Moments.of(inputs), torch.zeros(inputs, outputs, dtype=torch.float64)) for _ in range(groups)]
    examples, positions = len(values[layer.source]), layer.rows(values[layer.source][:1]).shape[0]
    for part in torch.arange(examples).split(max(1, _ROWS // max(1, positions))):
        rows, others = (layer.rows(each[layer.source][part]) for each in (values, wanted))
        added = [layer.targets(wanted[each][part] - values[each][part]) for each in wanted if each is not layer.source]
        for group, one in enumerate(found):
            own, columns = rows[:, group * inputs : (group + 1) * inputs], slice(group * outputs, (group + 1) * outputs)
            lack = (others[:, group * inputs : (group + 1) * inputs] - own) @ weight[group].T + sum(each[:, columns] for each in added)
            one.moments.add(own, len(part))
            one.products += (own.T @ lack).double().cpu() / positions
    return found


def _columns(quantizer: Scaled, keep: Tensor | None, dense: Tensor) -> Callable[[Tensor, int], Tensor]:
    """Return what rounds one column of the weight, (groups, out): to the grid, and to zero where a mask holds it."""
    by_entry, free = quantizer.by_entry(dense), None if keep is None else keep.flatten(1)

    def rounded(column: Tensor, position: int) -> Tensor:
        found = by_entry.select(1, torch.tensor([position], device=column.device))(column.reshape(-1, 1))
        held = found if free is None else torch.where(free[:, position : position + 1], found, 0.0)
        return held.reshape(column.shape)

    return rounded
