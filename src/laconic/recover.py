"""Recovery without training: what is left is adjusted, layer by layer, so that it computes what the whole network did.

Source: Y. He, X. Zhang, J. Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, section 3.1, subproblem (ii):
least squares for each layer on the inputs that it now gets, towards the outputs that it had, in network order, so that later layers
make up for what earlier ones lost. Batch norm's statistics are measured anew on the way, each after the layers before it were fitted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, fx

from laconic.context import Context
from laconic.errors import LaconicError
from laconic.numeric.elimination import LARGEST, ridge
from laconic.program import Program, clone, read
from laconic.program.cut import Slice
from laconic.program.fold import fold_batch_norm
from laconic.program.layers import Layer, layers
from laconic.program.observe import examples_at_once, side_by_side
from laconic.program.walk import Node
from laconic.train import AfterBatch, Loss, Training, cross_entropy, response_loss

aten = torch.ops.aten

Recovery: TypeAlias = Literal["least-squares", "statistics", "none"]

_TEMPERATURE, _ALPHA = 4.0, 0.9  # of the teacher's answers, and their weight against the labels'
_ROWS = 1 << 18  # of a layer's inputs at once


def recover(program: Program, whole: Program, sliced: Mapping[str, Sequence[Slice]], context: Context, how: Recovery) -> list[str]:
    """Adjust a cut program, in place, to compute on calibration data what the whole one computes.

    Args:
        program: the cut program; a copy of `whole` before, so that their nodes have the same names.
        whole: the program as it was; not changed.
        sliced: what was cut, as `program.cut.slices` gave it.
        context: gives the calibration data.
        how: "least-squares": layers whose inputs were cut, and batch norm's statistics; "statistics": these only; "none".

    Returns:
        The names of the weights that were fitted.
    """
    if how == "none":
        return []
    shortened = _shortened(program, sliced) if how == "least-squares" else {}
    norms = running_norms(program)
    inputs = torch.cat(list(context.calibration()))[: examples_at_once(whole)]
    with torch.no_grad():
        for each, values, reference in side_by_side(program.eval(), whole.eval(), inputs):
            node: Node = each
            if node in shortened:
                layer = shortened[node]
                _fit(program, layer, values[layer.source], _kept_outputs(layer, reference, sliced))
            elif node in norms:
                measure_norm(program, node, values[node.args[0]])
    return [layer.weight for layer in shortened.values()]


def check_data(program: Program, context: Context, training: Training | None) -> None:
    """Find calibration data of another shape or type than the network takes, and training without data for it.

    Raises:
        LaconicError: says both sides.
    """
    check_trainable(context, training)
    wanted = [(tuple(entry.shape), entry.dtype) for entry in program.inputs]
    came = [(tuple(tensor.shape[1:]), tensor.dtype) for tensor in context.example()]
    if wanted != came:
        words = [", ".join(f"{shape} {dtype}" for shape, dtype in each) for each in (wanted, came)]
        raise LaconicError(f"the network takes inputs of shape {words[0]}, the calibration data has {words[1]}")


def check_trainable(context: Context, training: Training | None) -> None:
    """Find training without data for it.

    Raises:
        LaconicError: there is none.
    """
    if training is not None and context.splits.train is None:
        raise LaconicError("training was asked for, and the data has no training split; leave it out, or give data with a `train` part")


def retrain(program: Program, training: Training | None, context: Context, label: str, after_batch: AfterBatch | None = None) -> None:
    """Train on the labels and on the answers of the teacher, where there is one; None: do not.

    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """
    if training is None:
        return
    loss = taught(context, _TEMPERATURE, _ALPHA)
    folder = None if context.folder is None else context.folder / label.replace(" ", "-")
    replace(context, folder=folder).fit(program, training, loss, f"recovering, {label}", after_batch)
    context.note(f"{label}: trained for {training.epochs} epochs")


def taught(context: Context, temperature: float, alpha: float) -> Loss:
    """Return the loss against labels and the teacher's softened answers; against labels alone where it has no weight or is not there."""
    if context.teacher is None or not alpha:
        return cross_entropy
    teacher = clone(context.teacher).eval()
    fold_batch_norm(teacher)  # the same answers in less time
    return response_loss(teacher.to(context.device), temperature, alpha)


def _shortened(program: Program, sliced: Mapping[str, Sequence[Slice]]) -> dict[fx.Node, Layer]:
    """Return the layers that lost inputs."""
    lost = [layer for layer in layers(program) if any(each.axis == 1 for each in sliced.get(layer.weight, ()))]
    return {layer.node: layer for layer in lost if layer.inputs <= LARGEST}


def _kept_outputs(layer: Layer, output: Tensor | None, sliced: Mapping[str, Sequence[Slice]]) -> Tensor:
    """Return what the whole layer computed, (positions, out), where the cut one still computes it."""
    assert output is not None, "the cut program has the nodes of the whole one"
    rows = layer.targets(output)
    kept = [each.index for each in sliced[layer.weight] if each.axis == 0]
    return rows[:, kept[0].to(rows.device)] if kept else rows


def _fit(program: Program, layer: Layer, inputs: Tensor, targets: Tensor) -> None:
    """Set the weight and bias of a layer to the least squares solution, drawn to what they are where the inputs leave it open."""
    weight, bias = read(program, layer.weight), None if layer.bias is None else read(program, layer.bias)
    prior = weight.flatten(1) if bias is None else torch.cat([weight.flatten(1), bias[:, None]], 1)
    moments, products = torch.zeros(2 * prior.shape[1:]).double(), torch.zeros(prior.shape[::-1]).double()
    per_example = len(targets) // len(inputs)
    step = max(1, _ROWS // per_example)
    for start in range(0, len(inputs), step):
        rows = layer.rows(inputs[start : start + step])
        rows = rows if bias is None else torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
        wanted = targets[start * per_example : (start + step) * per_example]
        moments += (rows.T @ rows).double().cpu()
        products += (rows.T @ wanted).double().cpu()
    fitted = ridge(moments, products, prior.cpu()).to(weight)
    weight.copy_(fitted[:, : layer.inputs].reshape(weight.shape))
    if bias is not None:
        bias.copy_(fitted[:, layer.inputs])


def running_norms(program: Program) -> set[fx.Node]:
    """Return the batch norms that keep a running mean and variance."""
    return {node for node in program.graph.nodes if node.target == aten.batch_norm.default and isinstance(node.args[3], fx.Node)}


def measure_norm(program: Program, node: Node, inputs: Tensor) -> None:
    """Set the running mean and variance of a batch norm to those of its inputs."""
    over = [axis for axis in range(inputs.ndim) if axis != 1]
    mean, variance = (read(program, str(node.args[position].target)) for position in (3, 4))
    mean.copy_(inputs.double().mean(over))
    variance.copy_(inputs.double().var(over))
