"""Layers one after the other, each behind the layers before it as they are by then: what calibration tells of each when its turn comes.

The second moments of the inputs are shrunk by how uncertain the calibration examples leave them (see `numeric.moments`). What a layer is
to compute is what it computed in the whole network, on the inputs that it had there: Y. Li et al., "GPTAQ: Efficient Finetuning-Free
Quantization for Asymmetric Calibration", ICML 2025, section 3. Ours moves the weight to the least squares solution before it is
changed, in place of a term in every update; and where the layer's output is added to something else, to the sum that the whole network
had, so that a residual stream does not gather the errors of its layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from laconic.numeric.elimination import damped
from laconic.numeric.moments import Moments
from laconic.program.layers import Layer, layer_at
from laconic.program.observe import examples_at_once, stepwise
from laconic.program.program import Program, read
from laconic.program.select import Weight

aten = torch.ops.aten

_ROWS = 1 << 18  # of a layer's inputs at once
_DAMPING = 0.01  # of the regression, as a share of the mean square of the inputs


@dataclass
class Seen:
    """What calibration tells of a group of a layer's outputs."""

    moments: Moments  # of the inputs
    products: Tensor  # (in, out), float64: sum over positions of the inputs times what the outputs lack

    def correction(self) -> Tensor:
        """Return what the weight lacks, (out, in): the regression of the outputs' lack on the inputs, as far as these can be trusted."""
        moments = damped(self.moments.shrunk, _DAMPING)
        lack = (1 - self.moments.doubt) * self.products / self.moments.examples
        found: Tensor = torch.linalg.solve(moments, lack).T
        return found


@dataclass(frozen=True)
class Turn:
    """A layer whose inputs come from layers that are changed already."""

    layer: Layer
    dense: Tensor  # its weight as it was, (out, in, *kernel)
    values: dict[fx.Node, Tensor]  # what there is now
    wanted: dict[fx.Node, Tensor]  # what the whole network has for what the layer reads and for what its output is added to

    def aim(self) -> tuple[Tensor, Tensor]:
        """Return the weight that best gives what the whole network had, and the second moments of the inputs.

        Returns:
            (groups, out, in) of the weight's type, and (groups, in, in), float64.
        """
        weight = self.dense.reshape(self.layer.groups, -1, self.layer.inputs)
        found = seen(self.layer, weight, self.values, self.wanted)
        moments, corrections = (torch.stack(each) for each in zip(*((one.moments.shrunk, one.correction()) for one in found), strict=True))
        return weight + corrections.to(weight), moments

    def energies(self) -> Tensor:
        """Return the mean square over examples and positions of each input of each group: (groups, in), float64."""
        values = self.values[self.layer.source]
        sums = [self.layer.rows(values[part]).square().sum(0, dtype=torch.float64) for part in _parts(self.layer, values)]
        positions = len(values) * len(self.layer.rows(values[:1]))
        return (torch.stack(sums).sum(0) / positions).reshape(self.layer.groups, -1)


def layers_of(chosen: list[Weight]) -> dict[fx.Node, Layer]:
    """Return the layers of `program.layers` that alone read one of the weights, by their node."""
    return {weight.readers[0]: layer for weight in chosen if len(weight.readers) == 1 and (layer := layer_at(weight.readers[0]))}


@torch.no_grad()
def in_turn(program: Program, whole: Program, chosen: list[Weight], inputs: Tensor) -> Iterator[Turn]:
    """Run over the layers of `layers_of(chosen)`, stopping before each; what becomes of its weight there, later layers see.

    Args:
        program: to be changed.
        whole: the program as it was before, of the same graph.
        chosen: the weights as they were before.
        inputs: calibration inputs, (examples, ...); so many as there is memory for.
    """
    layers, dense = layers_of(chosen), {weight.name: weight.value for weight in chosen}
    at_once, twins = max(1, examples_at_once(program) // 2), dict[fx.Node, fx.Node]()
    both = (stepwise(each.eval(), (inputs[:at_once],)) for each in (program, whole))
    for (node, values), (twin, wanted) in zip(*both, strict=True):
        twins[node] = twin
        if node in layers:
            layer = layers[node]
            read_here = [layer.source, *added_to(node, values)]
            yield Turn(layer, dense[layer.weight], values, {each: wanted[twins[each]] for each in read_here})
            weight = layer.node.all_input_nodes[1]
            values[weight] = read(program, str(weight.target))  # under the name that it has by then


def added_to(node: fx.Node, values: dict[fx.Node, Tensor]) -> list[fx.Node]:
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


def seen(layer: Layer, weight: Tensor, values: dict[fx.Node, Tensor], wanted: dict[fx.Node, Tensor]) -> list[Seen]:
    """Return what the calibration inputs tell of each group of outputs; `weight` is (groups, out, in), the rest as in `Turn`."""
    groups, outputs, inputs = weight.shape
    found = [Seen(Moments.of(inputs), torch.zeros(inputs, outputs, dtype=torch.float64)) for _ in range(groups)]
    positions = len(layer.rows(values[layer.source][:1]))
    for part in _parts(layer, values[layer.source]):
        rows, others = (layer.rows(each[layer.source][part]) for each in (values, wanted))
        added = [layer.targets(wanted[each][part] - values[each][part]) for each in wanted if each is not layer.source]
        for group, one in enumerate(found):
            own, columns = rows[:, group * inputs : (group + 1) * inputs], slice(group * outputs, (group + 1) * outputs)
            lack = (others[:, group * inputs : (group + 1) * inputs] - own) @ weight[group].T + sum(each[:, columns] for each in added)
            one.moments.add(own, len(part))
            one.products += (own.T @ lack).double().cpu() / positions
    return found


def _parts(layer: Layer, values: Tensor) -> tuple[Tensor, ...]:
    """Return the positions of the examples, as many at once as there is memory for the rows of."""
    parts: tuple[Tensor, ...] = torch.arange(len(values)).split(max(1, _ROWS // max(1, len(layer.rows(values[:1])))))
    return parts
