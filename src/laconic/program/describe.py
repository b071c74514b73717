"""The walk over a program: every value gets its axes, operation by operation."""

from typing import Any

from torch import Tensor, fx

from laconic.program.axes import MisfitError
from laconic.program.program import Program
from laconic.program.rules import rule_for
from laconic.program.rules.vanishing import blur_sums
from laconic.program.shapes import shapes
from laconic.program.walk import BATCH, Axes, Rule, Value, Walk, tensors_of, where


def describe(program: Program) -> Walk:
    """Give every value of a program its axes."""
    state = Walk(program, shapes(program, BATCH))
    for node in program.graph.nodes:
        rule = {"placeholder": _placeholder, "get_attr": _tensor, "output": _output, "call_module": _edge}.get(node.op) or rule_for(node)
        state.axes[node] = _apply(state, node, rule)
    blur_sums(state)
    return state


def _apply(state: Walk, node: fx.Node, rule: Rule | None) -> Value:
    if rule is None and not any(isinstance(state.values.get(argument), Tensor) for argument in node.all_input_nodes):
        return _unknown(state, node)
    reason = f"{where(node)}: no rule for this operation"
    if rule is not None:
        try:
            axes = rule(state, node)
            if _shape_of(state, axes) == _shape(state.values.get(node)):
                return axes
            reason = f"{where(node)}: its rule gives another shape"
        except (MisfitError, ValueError, IndexError, TypeError) as misfit:  # arguments of a kind that the rule does not know
            reason = f"{where(node)}: {misfit}"
    for argument in node.all_input_nodes:
        for axes in tensors_of(state.axes[argument]):
            state.freeze(axes, reason)
    return _unknown(state, node, reason)


def _shape(value: Any) -> Any:
    """Return the shape of a tensor, or those of several; None for what is no tensor."""
    if isinstance(value, Tensor):
        return [int(size) for size in value.shape]
    several = isinstance(value, (tuple, list)) and any(isinstance(item, Tensor) for item in value)
    return [_shape(item) or [] for item in value] if several else None


def _shape_of(state: Walk, axes: Value) -> Any:
    """Return the shape that axes describe, in the form of `_shape`."""
    if axes is None:
        return None
    several = bool(axes) and isinstance(axes[0], list)
    return [_shape_of(state, each) for each in axes] if several else [state.algebra.size(term) for term in axes]


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
