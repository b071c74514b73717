"""What is known about the channels of a group: its weights, and on calibration data gradients and inputs, one row per channel."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from laconic.context import Context
from laconic.numeric.moments import Moments
from laconic.program import Program, first_output, read
from laconic.program.groups import Found, Group, Slot
from laconic.program.layers import Layer, layers
from laconic.program.observe import observe
from laconic.program.program import holder
from laconic.train import classes_last

aten = torch.ops.aten

_BATCH = 64


def rows(group: Group, tensor_of: Callable[[str], Tensor], slots: Iterable[Slot] | None = None) -> Tensor:
    """Return what belongs to each channel in the tensors where the group lives: (channels, entries), float32.

    Args:
        group: the group.
        tensor_of: gives a tensor of the shape of the slot's by its name.
        slots: of the group; None: all.
    """
    parts = []
    for slot in group.slots if slots is None else slots:
        moved = tensor_of(slot.tensor).detach().float().cpu().movedim(slot.axis, 0)
        parts.append(moved[torch.from_numpy(slot.positions(group.channels))].reshape(group.channels, -1))
    return torch.cat(parts, 1) if parts else torch.zeros(group.channels, 0)


def weight_slots(program: Program, group: Group) -> list[Slot]:
    """Return the slots in weight matrices and kernels: statistics, biases and scales aside."""
    return [slot for slot in group.slots if read(program, slot.tensor).ndim > 1]


def scale_slots(program: Program, group: Group) -> list[Slot]:
    """Return the slots in the scales of batch norms."""
    scales = {str(node.args[1].target) for node in program.graph.nodes if node.target == aten.batch_norm.default and node.args[1]}
    return [slot for slot in group.slots if slot.tensor in scales]


def readers(found: Found, group: Group) -> list[tuple[Layer, Slot]]:
    """Return the layers that read the channels of a group, with the slot of their weight's input axis."""
    by_weight = {layer.weight: layer for layer in layers(found.walk.program)}
    return [(by_weight[slot.tensor], slot) for slot in group.slots if slot.axis == 1 and slot.tensor in by_weight]


def parameters(program: Program) -> list[str]:
    """Return the names of the parameters that the graph reads, represented ones too."""
    names = dict.fromkeys(str(node.target) for node in program.graph.nodes if node.op == "get_attr")
    holders = {name: holder(program, name) for name in names}
    kept = [name for name, (module, attribute) in holders.items() if attribute not in module._buffers]
    return [name for name in kept if read(program, name).is_floating_point()]


def gradients(program: Program, context: Context, batch: int = 8) -> Iterable[tuple[int, dict[str, Tensor]]]:
    """Yield the gradient of every parameter, dense as the graph reads it, by name, of the mean loss of one batch after the other.

    With each comes the number of examples in its batch.

    The labels are drawn from the network's own predictions, so that their mean square is the Fisher information (J. Martens, "New
    Insights and Perspectives on the Natural Gradient Method", JMLR 2020, section 5) and calibration data needs no labels.
    """
    names, generator = parameters(program), context.generator()
    by_node = {node: str(node.target) for node in program.graph.nodes if node.op == "get_attr" and node.target in names}
    for inputs in context.calibration(batch):
        values, result = _followed(program, inputs, by_node)
        found = torch.autograd.grad(_own_loss(result, generator), list(values.values()), allow_unused=True)
        slopes = {name: torch.zeros_like(read(program, name).detach()) for name in names}
        for node, one in zip(values, found, strict=True):
            if one is not None:
                slopes[by_node[node]] += one
        yield len(inputs), slopes


def output_sensitivity(program: Program, context: Context, of: Sequence[Layer]) -> dict[str, Tensor]:
    """Return, by layer node, what one unit of mean squared error of each output costs in loss: (out,), float64.

    Half the squared gradient, summed over the positions of an example and averaged over examples: the diagonal of the Fisher information
    of the layer's output. Labels are the network's own, as in `gradients`.
    """
    if not of:
        return {}
    totals = {layer.node.name: torch.zeros(layer.shape[0], dtype=torch.float64) for layer in of}
    generator, examples = context.generator(), 0
    for inputs in context.calibration(_BATCH):
        outputs, result = _followed(program, inputs, {layer.node for layer in of})
        loss = _own_loss(result, generator) * len(inputs)
        found = torch.autograd.grad(loss, [outputs[layer.node] for layer in of], allow_unused=True)
        for layer, gradient in zip(of, found, strict=True):
            if gradient is not None:
                totals[layer.node.name] += 0.5 * layer.targets(gradient).double().square().sum(0).cpu()
        examples += len(inputs)
    return {name: total / examples for name, total in totals.items()}


def input_moments(program: Program, context: Context, of: Sequence[Layer]) -> dict[str, Moments]:
    """Return, by layer node, the second moments of its inputs."""
    moments = {layer.node.name: Moments.of(layer.inputs) for layer in of}

    def add(layer: Layer, value: Tensor) -> None:
        moments[layer.node.name].add(layer.rows(value), len(value))

    _visit_inputs(program, context, of, add)
    return moments


def input_energies(program: Program, context: Context, of: Sequence[Layer]) -> dict[str, Tensor]:
    """Return, by layer node, the mean square over positions of each of its inputs: (in,), float64; the diagonal of `input_moments`."""
    totals, positions = dict[str, Tensor](), Counter[str]()

    def add(layer: Layer, value: Tensor) -> None:
        rows, name = layer.rows(value), layer.node.name
        part = rows.square().sum(0).double().cpu()
        totals[name] = totals[name] + part if name in totals else part
        positions[name] += len(rows)

    _visit_inputs(program, context, of, add)
    return {name: total / positions[name] for name, total in totals.items()}


def _visit_inputs(program: Program, context: Context, of: Sequence[Layer], visit: Callable[[Layer, Tensor], None]) -> None:
    """Call `visit` with each layer and what it reads of one batch of calibration data after the other."""
    by_source: dict[fx.Node, list[Layer]] = {}
    for layer in of:
        by_source.setdefault(layer.source, []).append(layer)

    def each(node: fx.Node, value: Tensor) -> None:
        for layer in by_source[node]:
            visit(layer, value)

    observe(program, ((inputs,) for inputs in context.calibration(_BATCH)), by_source, each)


def _own_loss(outputs: Tensor | tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    """Return the cross-entropy against labels drawn from the predictions themselves."""
    logits = classes_last(first_output(outputs).float())
    flat = logits.reshape(-1, logits.shape[-1])
    labels = torch.multinomial(flat.detach().softmax(1).cpu(), 1, generator=generator)[:, 0]
    return F.cross_entropy(flat, labels.to(flat.device))


def _followed(program: Program, inputs: Tensor, nodes: Collection[fx.Node]) -> tuple[dict[fx.Node, Tensor], Tensor]:
    """Return the values of some nodes, and the program's output, with gradients between them; what is detached is followed too."""
    values: dict[fx.Node, Tensor] = {}

    class Following(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = self.env[n.all_input_nodes[0]] if n.target == aten.detach.default else super().run_node(n)
            if n.op == "get_attr":
                value = value.detach()  # a graph that lives on must not hold parameters that are cut later
            if n in nodes:
                values[n] = value = value if value.requires_grad else value.requires_grad_()
            return value

    with torch.enable_grad():
        result = Following(program).run(inputs)
    return values, result
