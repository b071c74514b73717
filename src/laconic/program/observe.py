"""Run a program and look at the values inside it, node by node, without keeping them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from laconic.program.program import Program

_MEMORY = 4 << 30  # bytes that the values of a run over all examples may take, roughly
_VALUES = 6  # so many of the largest values are held at once


class _Observer(fx.Interpreter):
    def __init__(self, program: Program, nodes: Collection[fx.Node], visit: Callable[[fx.Node, Tensor], Tensor | None]) -> None:
        super().__init__(program)
        self._nodes, self._visit = set(nodes), visit

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n not in self._nodes:
            return value
        replacement = self._visit(n, value)
        return value if replacement is None else replacement


def observe(
    program: Program, inputs: Iterable[tuple[Tensor, ...]], nodes: Collection[fx.Node], visit: Callable[[fx.Node, Tensor], Tensor | None]
) -> None:
    """Run `program` in eval mode, without gradients, on each of `inputs` and call `visit(node, value)` at each of `nodes` in order.

    Where `visit` returns a tensor, the run goes on with it in place of the node's value.
    """
    training = program.training
    program.eval()
    try:
        with torch.no_grad():
            for example in inputs:
                _Observer(program, nodes, visit).run(*example)
    finally:
        program.train(training)


def stepwise(program: Program, inputs: tuple[Tensor, ...]) -> Iterator[tuple[fx.Node, dict[fx.Node, Any]]]:
    """Run `program` as it stands, stopping before each node: yields the node and the values that later nodes still need.

    Tensors that are changed in place at a stop are read so by the node. Run to its end it has computed the output, whose stop is the last.
    """
    interpreter = fx.Interpreter(program)
    interpreter.args_iter = iter(inputs)
    for node in program.graph.nodes:
        yield node, interpreter.env
        interpreter.env[node] = interpreter.run_node(node)
        for dead in interpreter.user_to_last_uses.get(node, []):
            del interpreter.env[dead]


Changes: TypeAlias = Mapping[fx.Node, Callable[[Tensor], Tensor]]
"""What becomes of the values of some nodes."""


def changed(program: Program, inputs: tuple[Tensor, ...], changes: Changes) -> Any:
    """Run `program` as it stands, and return its output, with what some nodes compute changed."""
    return _Observer(program, changes, lambda each, value: changes[each](value)).run(*inputs)


def rest(program: Program, node: fx.Node, values: Mapping[fx.Node, Any], changes: Changes) -> Any:
    """Run `program` from `node` to its end and return its output, with what some nodes compute changed.

    Args:
        program: as it stands, in eval mode.
        node: where a `stepwise` run of it has stopped.
        values: what `stepwise` gave there; they stay as they are.
        changes: what becomes of the values of nodes, those before `node` included.
    """
    nodes, interpreter = list(program.graph.nodes), _Observer(program, changes, lambda each, value: changes[each](value))
    interpreter.env = {each: changes[each](value) if each in changes else value for each, value in values.items()}
    for each in nodes[nodes.index(node) :]:
        interpreter.env[each] = interpreter.run_node(each)
        for dead in interpreter.user_to_last_uses.get(each, []):
            interpreter.env.pop(dead)
    return interpreter.env[nodes[-1]]


Stop: TypeAlias = tuple[fx.Node, dict[fx.Node, Any], Tensor | None]
"""A node that a run has come to, the values that it and later nodes need, and what another program computes there."""


def side_by_side(program: Program, whole: Program, inputs: Tensor) -> Iterator[Stop]:
    """Run a program beside the one that it was made from, whose nodes have the same names.

    Stops before each node of `program` as `stepwise` does: yields the node, the values, and what `whole` computes there, if anything.
    """
    steps = stepwise(whole, (inputs,))
    position, values = next(steps)
    names = {node.name for node in whole.graph.nodes}
    for node, own in stepwise(program, (inputs,)):
        reference = None
        if node.name in names and node.op != "output":
            while position.name != node.name:
                position, values = next(steps)
            wanted = position
            position, values = next(steps)
            reference = values.get(wanted)
        yield node, own, reference


class Piece(fx.Interpreter):
    """Runs what lies between two values of a program, by itself."""

    def __init__(self, program: Program, start: str, end: str) -> None:
        """Take a program, the name of the node whose value is given, and of the one whose value is wanted.

        Raises:
            ValueError: `end` needs other values of the run than that of `start`.
        """
        super().__init__(program)
        by_name = {node.name: node for node in program.graph.nodes}
        self._start, self._end = by_name[start], by_name[end]
        inside, left = set[fx.Node](), [self._end]
        while left:
            node = left.pop()
            if node is not self._start and node not in inside:
                inside.add(node)
                left += node.all_input_nodes
        if any(node.op == "placeholder" for node in inside):
            raise ValueError(f"{end} is not computed from {start} alone")
        self.nodes = [node for node in program.graph.nodes if node in inside]

    def __call__(self, value: Tensor) -> Any:
        """Return the value of the end for a value of the start, the program being as it stands."""
        self.env = {self._start: value}
        for node in self.nodes:
            self.env[node] = self.run_node(node)
            for dead in self.user_to_last_uses.get(node, []):
                self.env.pop(dead, None)
        result, self.env = self.env[self._end], {}
        return result


def examples_at_once(program: Program) -> int:
    """Return how many examples a run on all at once has memory for."""
    sizes = [prod(value.shape[1:]) for node in program.graph.nodes if isinstance(value := node.meta.get("val"), Tensor) and value.ndim]
    return int(max(1, _MEMORY // (4 * _VALUES * max(sizes))))
