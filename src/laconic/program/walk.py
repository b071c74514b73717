"""The walk that gives every value of a program its axes, operation by operation, by the rules of `rules.py`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from laconic.program.axes import Algebra, MisfitError, Term, product
from laconic.program.program import Program
from laconic.program.shapes import shapes

BATCH = 8191
"""The batch size that shapes are computed with: a prime beyond any other size, so that it is recognised wherever it is merged."""

Axes: TypeAlias = list[Term]
Value: TypeAlias = Any
"""Axes of a tensor, a list of such for several tensors, or None for what is no tensor."""

Node: TypeAlias = Any
"""A node of the graph; fx types the arguments of nodes too widely to read them."""

Rule: TypeAlias = Callable[["Walk", Node], Value]


@dataclass
class Walk:
    """The state of one walk over a program."""

    program: Program
    values: dict[fx.Node, Any]  # what each node computes, as fake tensors with the batch above
    algebra: Algebra = field(default_factory=Algebra)
    axes: dict[fx.Node, Value] = field(default_factory=dict)
    tensors: dict[str, Axes] = field(default_factory=dict)  # axes of every parameter and buffer, by name
    batch: Term | None = None

    def of(self, node: Any) -> Axes:
        """Return the axes of a tensor argument."""
        axes: Axes = self.axes[node]
        return axes

    def shape(self, node: fx.Node) -> list[int]:
        """Return the shape of a tensor value."""
        return [int(size) for size in self.values[node].shape]

    def fresh(self, node: fx.Node, reason: str | None = None) -> Axes:
        """Return new symbols for every dimension of what `node` computes, frozen where a reason is given."""
        return [self.dimension(size, reason) for size in self.shape(node)]

    def dimension(self, size: int, reason: str | None = None) -> Term:
        """Return a new dimension; the batch, alone or merged with others, is recognised by its size."""
        if self.batch is not None and size % BATCH == 0:
            rest = self.algebra.new(size // BATCH, reason)
            return self.algebra.normal(product([self.batch, rest]))
        return self.algebra.new(size, reason)

    def freeze(self, axes: Axes, reason: str) -> None:
        """Let all symbols of some axes stay whole."""
        for term in axes:
            self.algebra.freeze(term, reason)

    def unify(self, first: Term, second: Term, node: fx.Node) -> Term:
        """Equate two dimensions; where they do not fit, both are frozen and the walk goes on."""
        try:
            return self.algebra.unify(first, second)
        except MisfitError as misfit:
            for term in (first, second):
                self.algebra.freeze(term, f"{where(node)}: {misfit}")
            return first

    def pointwise(self, node: fx.Node, operands: list[fx.Node]) -> Axes:
        """Equate the aligned dimensions of operands that are broadcast together; returns the axes of the result."""
        result: Axes = []
        for back in range(len(self.shape(node)), 0, -1):
            size = self.shape(node)[-back]
            terms = [self.of(o)[-back] for o in operands if len(self.of(o)) >= back and self.shape(o)[-back] == size]
            for other in terms[1:]:
                self.unify(terms[0], other, node)
            result.append(terms[0] if terms else self.dimension(size, f"{where(node)}: no operand has this dimension"))
        return result


def where(node: fx.Node) -> str:
    """Name an operation and the user's line that asked for it."""
    source = node.meta.get("source") or node.meta.get("module") or node.name
    return f"{node.target} at {source}"


def walk(program: Program) -> Walk:
    """Give every value of a program its axes."""
    from laconic.program.rules import rule_for

    state = Walk(program, shapes(program, BATCH))
    for node in program.graph.nodes:
        rule = {"placeholder": _placeholder, "get_attr": _tensor, "output": _output, "call_module": _edge}.get(node.op) or rule_for(node)
        state.axes[node] = _apply(state, node, rule)
    return state


def _apply(state: Walk, node: fx.Node, rule: Rule | None) -> Value:
    if rule is None and not any(isinstance(state.values.get(argument), Tensor) for argument in node.all_input_nodes):
        return _unknown(state, node)
    reason = f"{where(node)}: no rule for this operation"
    if rule is not None:
        try:
            return rule(state, node)
        except MisfitError as misfit:
            reason = f"{where(node)}: {misfit}"
    for argument in node.all_input_nodes:
        for axes in _tensors_of(state.axes[argument]):
            state.freeze(axes, reason)
    return _unknown(state, node, reason)


def _tensors_of(value: Value) -> list[Axes]:
    if value is None:
        return []
    return [value] if not value or not isinstance(value[0], list) else value


def _unknown(state: Walk, node: fx.Node, reason: str | None = None) -> Value:
    value = state.values.get(node)
    reason = reason or f"{where(node)}: a constant"
    if isinstance(value, Tensor):
        return [state.dimension(int(size), reason) for size in value.shape]
    if isinstance(value, (tuple, list)) and any(isinstance(item, Tensor) for item in value):
        return [[state.dimension(int(size), reason) for size in item.shape] if isinstance(item, Tensor) else [] for item in value]
    return None


def _placeholder(state: Walk, node: fx.Node) -> Axes:
    if state.batch is None:
        state.batch = state.algebra.new(BATCH, "the batch")
    _, *others = state.shape(node)
    return [state.batch, *(state.algebra.new(size, f"input {node.name!r}") for size in others)]


def _tensor(state: Walk, node: fx.Node) -> Axes:
    name = str(node.target)
    if name not in state.tensors:
        state.tensors[name] = [state.algebra.new(size) for size in state.shape(node)]
    return state.tensors[name]


def _output(state: Walk, node: fx.Node) -> Value:
    for argument in node.all_input_nodes:
        state.freeze(state.of(argument), "the network's output")


def _edge(state: Walk, node: fx.Node) -> Axes:
    return state.of(node.args[0])


def is_pointwise(target: Any) -> bool:
    """Say whether torch declares an operation to work entry by entry."""
    return torch.Tag.pointwise in getattr(target, "tags", ())
