"""The table of rules, and how operations are entered in tables."""

from collections.abc import Callable
from typing import Any, TypeVar

from laconic.program.walk import Axes, Node, Rule, Walk, is_pointwise

Entry = TypeVar("Entry")

_RULES: dict[Any, Rule] = {}


def enter(table: dict[Any, Entry], *targets: Any) -> Callable[[Entry], Entry]:
    """Return a decorator that enters a function in a table under operations: overloads, or packets for all their overloads."""

    def register(entry: Entry) -> Entry:
        for target in targets:
            table.update(dict.fromkeys(overloads(target), entry))
        return entry

    return register


def overloads(target: Any) -> list[Any]:
    """Return the overloads of a packet, or the overload or function itself."""
    return [getattr(target, name) for name in target.overloads()] if hasattr(target, "overloads") else [target]


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Name the operations that a rule describes."""
    return enter(_RULES, *targets)


def rule_for(node: Node) -> Rule | None:
    """Return the rule of an operation; entry-by-entry operations share one."""
    if node.target in _RULES:
        return _RULES[node.target]
    return _pointwise if is_pointwise(node.target) else None


def _pointwise(walk: Walk, node: Node) -> Axes:
    return walk.pointwise(node, walk.operands(node))
