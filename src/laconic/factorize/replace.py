"""Put small layers in the place of a large one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from laconic.factorize.ways import Stage
from laconic.program import Program, place
from laconic.program.layers import Layer
from laconic.program.program import own_tensors
from laconic.program.select import RECURRENT
from laconic.program.walk import argument

aten = torch.ops.aten


def base_name(layer: Layer) -> str:
    """Return the name under which the parts of a layer are stored."""
    return layer.weight.removesuffix(".weight") if layer.weight.endswith(".weight") else f"{layer.weight}_parts"


def put(program: Program, layer: Layer, made: Sequence[Stage]) -> list[str]:
    """Replace a layer by stages, in place; tidy and infer shapes afterwards. The last takes the layer's bias and its node's name.

    Returns:
        The names of the new weights, in order.
    """
    base, taken, names = base_name(layer), set(own_tensors(program)), list[str]()
    value = layer.source
    for number, stage in enumerate(made):
        name = f"{base}.{stage.name}.weight"
        while name in taken:
            name = f"{name.removesuffix('.weight')}_.weight"
        value_of_weight = stage.weight.float().contiguous()  # as it lies in a file, so that a program that is read computes the same bits
        place(program, name, value_of_weight)
        with program.graph.inserting_before(layer.node):
            weight = program.graph.get_attr(name)
            weight.meta = {"val": value_of_weight}
            value = program.graph.call_function(*_call(layer, stage, value, weight, is_last=number == len(made) - 1))
            value.meta = {key: told for key, told in layer.node.meta.items() if key != "val"}
        names.append(name)
    kept = layer.node.name
    layer.node.replace_all_uses_with(value)
    program.graph.erase_node(layer.node)
    value.name = kept
    return names


def _call(layer: Layer, stage: Stage, value: fx.Node, weight: fx.Node, *, is_last: bool) -> tuple[Any, tuple[Any, ...]]:
    """Return the operation of a stage and its arguments."""
    node: Any = layer.node
    if stage.operation == "layer" and node.target is aten.embedding.default:
        return node.target, (weight, *node.args[1:])
    if stage.operation == "layer" and node.target in RECURRENT:
        _, state, parameters, *settings = node.args
        return node.target, (value, state, [weight, *parameters[1:]], *settings)
    target = node.target if stage.operation == "layer" else aten.linear.default
    bias = argument(node, "bias") if is_last and layer.bias is not None else None
    return target, (value, weight, bias, *_rest(layer, stage))


def _rest(layer: Layer, stage: Stage) -> tuple[Any, ...]:
    """Return the arguments of a convolution behind its bias; of a linear layer there are none."""
    if not layer.spatial:
        return ()
    given = [list(layer.each(name)) for name in ("stride", "padding", "dilation")]
    usual = [[1] * layer.spatial, [0] * layer.spatial, [1] * layer.spatial]
    taken = {"whole": range(layer.spatial), "columns": [0], "rows": [1], "point": []}[stage.along]
    settings = [
        [own[axis] if axis in taken else plain[axis] for axis in range(layer.spatial)] for own, plain in zip(given, usual, strict=True)
    ]
    return (*settings, stage.groups)


def followed_by_norm(node: fx.Node) -> bool:
    """Say whether a batch norm alone reads what a layer computes."""
    return [user.target for user in node.users] == [aten.batch_norm.default]


def as_value(node: fx.Node) -> Tensor:
    """Return the fake tensor of what a node computes."""
    value: Tensor = node.meta["val"]
    return value
