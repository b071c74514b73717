"""Sizes of terms and shapes after a cut, from the algebra."""

import operator
from math import prod
from typing import Any

import torch
from torch import fx

from laconic.errors import LaconicError
from laconic.program.axes import Keep, Product, Sum, Term
from laconic.program.walk import BATCH, Walk

aten = torch.ops.aten


class Sizes:
    """Sizes of terms and shapes when each symbol keeps its channels; with nothing cut where `keep` is empty."""

    def __init__(self, state: Walk, keep: Keep) -> None:
        self.state, self.keep = state, keep

    def of(self, term: Term) -> int:
        """Return how many positions of a term stay."""
        match self.state.algebra.normal(term):
            case Product(factors):
                return prod(map(self.of, factors))
            case Sum(parts):
                return sum(map(self.of, parts))
            case symbol:
                return len(self.keep.get(symbol.number, range(self.state.algebra.sizes[symbol.number])))

    def shape(self, node: Any) -> list[int]:
        """Return the shape of what `node` computes; batches count as `BATCH`."""
        return [self.of(term) for term in self.state.of(node)]

    def literal(self, before: Any, size: int) -> Any:
        """Return the size to write where `before` was written; what follows from the batch keeps doing so."""
        if isinstance(before, fx.Node):
            value = self.state.values[before]
            return before if int(value) == size else _of_batch(before, size)
        return before if before == -1 else size


def _of_batch(before: fx.Node, size: int) -> fx.Node:
    """Write `batch * k` for a size that follows from the batch with another factor than before."""
    if size % BATCH:
        raise LaconicError(
            f"the size {before.name} at {before.meta.get('source', before.name)} mixes the batch with channels in an unknown way"
        )
    graph = before.graph
    source = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(before):
        batch = graph.call_function(aten.sym_size.int, (source, 0))
    with graph.inserting_after(batch):
        return graph.call_function(operator.mul, (batch, size // BATCH))
