"""Run a program and look at the values inside it, node by node, without keeping them."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from laconic.program.program import Program


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
