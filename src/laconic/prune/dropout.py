"""Dropout that falls as connections go, for the capacity that it regularizes has gone with them.

Source: S. Han, J. Pool, J. Tran, W. Dally, "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, section
3.2, equation 2: `D_r = D_o sqrt(C_ir / C_io)`, with the connections of a layer in the original network and in the pruned one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from laconic.program import Program, weights

aten = torch.ops.aten

_DROPOUTS: frozenset[Any] = frozenset(
    {aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default}
)


def dropouts(program: Program) -> dict[fx.Node, tuple[str, ...]]:
    """Return the dropouts of a program with the names of the weights that read what they leave: those of the layers that follow."""
    readers = {reader: weight.name for weight in weights(program) for reader in weight.readers}
    found = {node: _following(node, readers) for node in program.graph.nodes if node.target in _DROPOUTS}
    return {node: names for node, names in found.items() if names}


def _following(node: fx.Node, readers: dict[fx.Node, str]) -> tuple[str, ...]:
    names, seen, waiting = dict[str, None](), set[fx.Node](), list(node.users)
    while waiting:
        each = waiting.pop(0)
        if each in readers:
            names[readers[each]] = None
        elif each not in seen:
            waiting += each.users
        seen.add(each)
    return tuple(names)


def connections(program: Program) -> dict[str, int]:
    """Return how many entries of every weight are not zero."""
    return {weight.name: int(weight.value.count_nonzero()) for weight in weights(program)}


@contextmanager
def rescaled_dropout(program: Program, original: dict[str, int], wanted: bool = True) -> Iterator[list[str]]:
    """Lower the rates of dropout for the length of a block.

    Args:
        program: is changed, and put back at the end.
        original: connections of every weight when the rates were right.
        wanted: False: leave all as it is.

    Yields:
        What changed, in words.
    """
    found, now = dropouts(program) if wanted else {}, connections(program)
    rates: dict[fx.Node, Any] = {node: node.args[1] for node in found}
    shares = {node: sum(map(now.__getitem__, names)) / sum(map(original.__getitem__, names)) for node, names in found.items()}
    try:
        _set_rates(program, {node: rate * shares[node] ** 0.5 for node, rate in rates.items()})
        yield [f"dropout before {', '.join(found[node])}: {rate:g} -> {node.args[1]:.3g}" for node, rate in rates.items()]
    finally:
        _set_rates(program, rates)


def _set_rates(program: Program, rates: dict[fx.Node, Any]) -> None:
    for node, rate in rates.items():
        node.update_arg(1, rate)
    if rates:
        program.recompile()
