"""The state of a walk over a program that gives every value its axes; the rules of `rules` read and write it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from laconic.program.axes import UNIT, Algebra, MisfitError, Term, product
from laconic.program.program import Program

BATCH = 8191
"""The batch size that shapes are computed with: a prime beyond any other size, so that it is recognised wherever it is merged."""

KERNEL = "kernel positions"
"""What is said of the axes of kernels that are no channels."""

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
    sums: list[tuple[Node, Term, list[Node]]] = field(default_factory=list)  # operation, channels it adds up, and what it multiplies there

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

    def axis(self, node: Any, dim: int) -> int:
        """Return the position of an axis of a tensor, counted from the front."""
        return dim % len(self.of(node))

    def operands(self, node: Node) -> list[Node]:
        """Return the arguments of an operation that are tensors."""
        return [argument for argument in node.all_input_nodes if isinstance(self.values.get(argument), Tensor)]

    def positions(self, node: Node, start: int = 2) -> Axes:
        """Return frozen dimensions for the positions of what `node` computes, from axis `start` on."""
        return [self.dimension(size, f"{where(node)}: positions") for size in self.shape(node)[start:]]

    def contract(self, node: Node, first: Term, second: Term, factors: list[Node] | None = None) -> None:
        """Equate two dimensions that are multiplied and added up; of `factors`, or else of all tensors that the operation reads."""
        self.unify(first, second, node)
        self.add_up(node, first, factors)

    def add_up(self, node: Node, term: Term, factors: list[Node] | None = None) -> None:
        """Note that an operation adds up a dimension of the product of some tensors: of what is zero there, nothing comes."""
        self.sums.append((node, term, factors or self.operands(node)))

    def all_equal(self, node: Node, terms: Axes) -> Term:
        """Equate any number of dimensions; returns one of them."""
        for term in terms[1:]:
            self.unify(terms[0], term, node)
        return terms[0]

    def broadcast(self, node: Node, first: Axes, second: Axes) -> Axes:
        """Equate the aligned axes of two tensors, size 1 aside; returns the axes of the result."""
        length = max(len(first), len(second))
        first, second = [UNIT] * (length - len(first)) + first, [UNIT] * (length - len(second)) + second
        result = []
        for a, b in zip(first, second, strict=True):
            sizes = self.algebra.size(a), self.algebra.size(b)
            result.append(self.unify(a, b, node) if sizes[0] == sizes[1] else (a if sizes[1] == 1 else b))
        return result

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


def tensors_of(value: Value) -> list[Axes]:
    """Return the axes of every tensor of a value: none, one, or several."""
    if value is None:
        return []
    return value if value and isinstance(value[0], list) else [value]


def argument(node: Node, name: str, default: Any = None) -> Any:
    """Return an argument of an operation by its name there, as given or as declared; `default` where there is none."""
    if name in node.kwargs:
        return node.kwargs[name]
    for position, declared in enumerate(node.target._schema.arguments):
        if declared.name == name:
            return node.args[position] if position < len(node.args) else declared.default_value
    return default


def where(node: fx.Node) -> str:
    """Name an operation and the user's line that asked for it."""
    source = node.meta.get("source") or node.meta.get("module") or node.name
    return f"{node.target} at {source}"


def is_pointwise(target: Any) -> bool:
    """Say whether torch declares an operation to work entry by entry."""
    return torch.Tag.pointwise in getattr(target, "tags", ())
