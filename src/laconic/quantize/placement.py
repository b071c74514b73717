"""Where activation quantizers stand, so that the runtimes' integer kernels are used: around every convolution, linear layer and sum."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from laconic.program import Program, Weight, weights

aten = torch.ops.aten

_SUMS = (aten.add.Tensor,)
_FUSED = (aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default)  # executed inside the kernel before them
_SAME_VALUES = (  # move or choose values, so that the grid before them is the grid after them
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.dropout.default,
    aten.contiguous.default,
    aten.squeeze.dim,
    aten.unsqueeze.default,
)


@dataclass(frozen=True)
class Sites:
    """What of a program is quantized."""

    program: Program
    weights: tuple[Weight, ...]
    points: Mapping[fx.Node, list[fx.Node]]  # as `quantized_points` gives them

    @property
    def kernels(self) -> list[fx.Node]:
        """The layers that read the weights."""
        return [reader for weight in self.weights for reader in weight.readers]


def quantized_points(program: Program, chosen: list[Weight], norms: Collection[fx.Node] = ()) -> dict[fx.Node, list[fx.Node]]:
    """Return the nodes to quantize, each with the later nodes that carry the same values and share its grid.

    A value is quantized where an integer kernel reads it, or can write nothing else: a convolution's does write integers, a linear
    layer's writes float as fast. So the sums and norms between linear layers, as in transformers, stay float. Between a kernel and the
    activation fused into it there is no quantizer, nor between it and one of `norms`, which will be folded into it; and the network's
    own output stays float.
    """
    kernels, writers, sums = _integer_kernels(program, chosen, norms)
    points: dict[fx.Node, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if node in kernels or node in sums:
            for value in node.args[: 2 if node in sums else 1]:
                _add(points, before_padding(value), norms)
        if node in writers or node in sums:
            _add(points, _last_fused(node, norms), norms)
    outputs = {value for node in program.graph.nodes if node.op == "output" for value in node.all_input_nodes}
    return {node: shared for node, shared in points.items() if node not in outputs}


def readers(values: Iterable[fx.Node]) -> set[fx.Node]:
    """Return the operations that compute with any of some values, behind what only moves them or puts zeros around them."""
    found, waiting = set[fx.Node](), list(values)
    for value in waiting:
        for user in value.users:
            if user.target in _SAME_VALUES or before_padding(user) is not user:
                waiting.append(user)
            else:
                found.add(user)
    return found


def float_readers(
    program: Program, chosen: list[Weight], points: Iterable[fx.Node], norms: Collection[fx.Node] = ()
) -> dict[fx.Node, set[fx.Node]]:
    """Return, for each quantized point, its readers that compute in float and find the value there in float: no integer kernel wrote it.

    So what a residual sum adds to is not rounded because a linear layer reads it too.
    """
    kernels, writers, sums = _integer_kernels(program, chosen, norms)
    in_float = {point for point in points if _origin(point, norms) not in writers | sums}
    return {point: {user for user in point.users if not _leads_to_integers(user, kernels | sums)} for point in in_float}


def _leads_to_integers(node: fx.Node, kernels: set[fx.Node]) -> bool:
    return node in kernels or node.target in _SAME_VALUES or before_padding(node) is not node


def _integer_kernels(program: Program, chosen: list[Weight], norms: Collection[fx.Node]) -> tuple[set[fx.Node], set[fx.Node], set[fx.Node]]:
    """Return the layers that compute on integers, those of them that write integers only, and the sums of what those write."""
    kernels = {reader for weight in chosen for reader in weight.readers if weight.kind != "embedding"}
    writers = {kernel for kernel in kernels if kernel.target is not aten.linear.default}
    return kernels, writers, {node for node in program.graph.nodes if node.target in _SUMS and _adds_activations(node, writers, norms)}


def kernels_around(edges: Iterable[fx.Node], layers: set[fx.Node]) -> set[fx.Node]:
    """Return the layers whose integer kernels need the grid that stands on some edges: readers, and writers that write integers only."""
    found = set[fx.Node]()
    for edge in edges:
        users = {later for user in edge.users for later in (user.users if before_padding(user) is not user else [user])}
        origin = _origin(edge.all_input_nodes[0], ())
        found |= (users | ({origin} if origin.target is not aten.linear.default else set())) & layers
    return found


def points_read(points: Mapping[fx.Node, list[fx.Node]], kernels: Iterable[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Return the quantized point, as `quantized_points` gave them, that each kernel reads."""
    point_of = {value: point for point, shared in points.items() for value in (point, *shared)}
    read = {kernel: before_padding(kernel.all_input_nodes[0]) for kernel in kernels}
    return {kernel: point_of[value] for kernel, value in read.items() if value in point_of}


def end_kernels(program: Program) -> set[fx.Node]:
    """Return the layers that read the network's input, and those that make its output: no other layer lies between."""
    layers = {reader for weight in weights(program) for reader in weight.readers}
    nodes = list(program.graph.nodes)
    found, reached = set[fx.Node](), {node for node in nodes if node.op in ("placeholder", "output")}
    for forward in (True, False):
        alive = set(reached)
        for node in nodes if forward else reversed(nodes):
            if any(each in alive for each in (node.all_input_nodes if forward else node.users)):
                (found if node in layers else alive).add(node)
    return found


def _adds_activations(node: fx.Node, writers: set[fx.Node], norms: Collection[fx.Node]) -> bool:
    """Say whether both operands are activations and at least one comes straight from a kernel that writes integers."""
    operands: list[Any] = list(node.args[:2])
    activations = all(isinstance(o, fx.Node) and o.op == "call_function" and _is_float(o) for o in operands)
    return activations and any(_origin(operand, norms) in writers for operand in operands)


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _origin(node: fx.Node, norms: Collection[fx.Node]) -> fx.Node:
    while node.target in (*_FUSED, *_SAME_VALUES) or node in norms:
        node = node.all_input_nodes[0]
    return node


def _last_fused(node: fx.Node, norms: Collection[fx.Node]) -> fx.Node:
    users = list(node.users)
    if len(users) == 1 and users[0] in norms:
        return _last_fused(users[0], norms)
    return users[0] if len(users) == 1 and users[0].target in _FUSED else node


def before_padding(node: fx.Node) -> fx.Node:
    """Return what zeros are put around, where `node` does that, for they belong to the convolution that reads it; else `node`."""
    zeros = node.target in (aten.pad.default, aten.constant_pad_nd.default) and not any(node.args[2:]) and not node.kwargs
    return node.all_input_nodes[0] if zeros or (node.target is aten.pad.default and node.args[2:] == ("constant", 0.0)) else node


def _add(points: dict[fx.Node, list[fx.Node]], node: fx.Node, norms: Collection[fx.Node]) -> None:
    source = node
    while source.target in _SAME_VALUES:
        source = source.all_input_nodes[0]
    if not _is_quantizable(source) and source not in norms:
        source = node
    shared = points.setdefault(source, [])
    if node is not source and node not in shared:
        shared.append(node)


def _is_quantizable(node: fx.Node) -> bool:
    """Values that no kernel wrote, such as means, are quantized where they are read, behind their reshape."""
    return (
        node.op == "placeholder"
        or node.target in _FUSED
        or node.target in _SUMS
        or str(node.target).startswith(("aten.conv", "aten.linear"))
    )
