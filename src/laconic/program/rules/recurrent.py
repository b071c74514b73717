"""LSTM, GRU and plain recurrent layers."""

from typing import Any

import torch

from laconic.program.axes import MisfitError, Term, concatenation, product
from laconic.program.rules.table import rule
from laconic.program.walk import Axes, Node, Walk, where

aten = torch.ops.aten


@rule(aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
def _recurrent(walk: Walk, node: Node) -> list[Axes]:
    """Gates are the outer factor of every weight's rows; directions are parts of the output. A step of zeros still moves the state."""
    inputs, state, parameters, has_biases, layers, _, _, bidirectional, batch_first = node.args
    gates = {"lstm": 4, "gru": 3}.get(str(node.target).split(".")[1], 1)
    states = list(state) if isinstance(state, (list, tuple)) else [state]
    per_cell, directions = (4 if has_biases else 2), (2 if bidirectional else 1)
    remaining, current = list(parameters), walk.of(inputs)[-1]
    if len(remaining) != per_cell * directions * int(layers):
        raise MisfitError("a projected state")
    hidden_terms: Axes = []
    for _ in range(int(layers)):
        outputs = []
        for _ in range(directions):
            cell, remaining = remaining[:per_cell], remaining[per_cell:]
            outputs.append(_cell(walk, node, cell, current, gates))
        hidden_terms += outputs
        current = concatenation(outputs)
    walk.all_equal(node, [*hidden_terms, *(walk.of(each)[-1] for each in states)])  # one state tensor holds all layers and directions
    *outer, _ = walk.of(inputs)
    walk.algebra.blur(outer[1 if batch_first and len(outer) > 1 else 0], f"{where(node)}: goes through these channels step by step")
    for each in states:
        walk.freeze(walk.of(each)[:1], f"{where(node)}: layers and directions")
    return [[*outer, current], *(walk.of(each) for each in states)]


def _cell(walk: Walk, node: Node, cell: list[Any], inputs: Term, gates: int) -> Term:
    from_input, from_hidden = walk.of(cell[0]), walk.of(cell[1])
    walk.contract(node, from_input[1], inputs)
    gate, hidden = walk.algebra.split_product(from_input[0], gates, walk.algebra.size(from_input[0]) // gates)
    walk.algebra.freeze(gate, f"{where(node)}: gates")
    walk.unify(from_hidden[0], product([gate, hidden]), node)
    walk.unify(from_hidden[1], hidden, node)
    for bias in cell[2:]:
        walk.unify(walk.of(bias)[0], product([gate, hidden]), node)
    return hidden
