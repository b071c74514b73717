"""The weights of a program, chosen by name patterns: what a step works on."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, fx

from laconic.errors import LaconicError, unknown
from laconic.program.program import Program, read

aten = torch.ops.aten

_READERS: dict[Any, tuple[str, int, int]] = {  # operation -> kind, position of the weight, axis of its output channels
    aten.linear.default: ("linear", 1, 0),
    aten.conv1d.default: ("conv1d", 1, 0),
    aten.conv2d.default: ("conv2d", 1, 0),
    aten.conv3d.default: ("conv3d", 1, 0),
    aten.conv1d.padding: ("conv1d", 1, 0),
    aten.conv2d.padding: ("conv2d", 1, 0),
    aten.conv3d.padding: ("conv3d", 1, 0),
    aten.conv_transpose1d.default: ("conv_transpose1d", 1, 1),
    aten.conv_transpose2d.input: ("conv_transpose2d", 1, 1),
    aten.conv_transpose3d.input: ("conv_transpose3d", 1, 1),
    aten.embedding.default: ("embedding", 0, 0),
}
RECURRENT: dict[Any, str] = {aten.lstm.input: "lstm", aten.gru.input: "gru", aten.rnn_tanh.input: "rnn", aten.rnn_relu.input: "rnn"}

KINDS = tuple(dict.fromkeys([kind for kind, _, _ in _READERS.values()] + list(RECURRENT.values())))


@dataclass(frozen=True)
class Weight:
    """A weight matrix or kernel: what a layer multiplies its input by."""

    name: str
    kind: str  # of its first reader: one of KINDS
    value: Tensor  # dense, as the graph reads it, detached
    axis: int  # of the output channels
    readers: tuple[fx.Node, ...]  # more than one where the weight is tied


def weights(program: Program, include: Iterable[str] = (), exclude: Iterable[str] = (), kinds: Iterable[str] = KINDS) -> list[Weight]:
    """Return the weights that match, in graph order.

    Args:
        program: the program; the returned values are views of its tensors now.
        include: name patterns (`fnmatch`); empty: all.
        exclude: name patterns of weights to leave alone, stronger than `include`. A pattern matches a weight's name or its layer's.
        kinds: kinds of layers to consider.

    Raises:
        LaconicError: a pattern matches no weight, or nothing is left.
    """
    kinds = set(kinds)
    found = [weight for weight in _all_weights(program) if weight.kind in kinds]
    include, exclude = tuple(include), tuple(exclude)
    for pattern in (*include, *exclude):
        if not any(matches(weight.name, (pattern,)) for weight in found):
            raise unknown("layer pattern", pattern, [weight.name for weight in found])
    chosen = [w for w in found if (not include or matches(w.name, include)) and not matches(w.name, exclude)]
    if not chosen:
        names = ", ".join(weight.name for weight in found) or f"no layers of the kinds {', '.join(kinds)}"
        raise LaconicError(f"no weight is left after include={include} and exclude={exclude}; the network has {names}")
    return chosen


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Say whether a tensor's name, or the name of its layer, matches one of the patterns.

    >>> matches("classifier.0.weight", ["classifier*"]), matches("fc.weight", ["fc"]), matches("fc2.weight", ["fc"])
    (True, True, False)
    """
    layer = name.rpartition(".")[0]
    return any(fnmatchcase(name, pattern) or fnmatchcase(layer, pattern) for pattern in patterns)


def _all_weights(program: Program) -> list[Weight]:
    found: dict[str, Weight] = {}
    for node in program.graph.nodes:
        for name, kind, axis in _weights_of(node):
            known = found.get(name)
            readers = (*known.readers, node) if known else (node,)
            first = known or Weight(name, kind, read(program, name).detach(), axis, ())
            found[name] = Weight(first.name, first.kind, first.value, first.axis, readers)
    return list(found.values())


def _weights_of(node: fx.Node) -> list[tuple[str, str, int]]:
    if node.target in _READERS:
        kind, position, axis = _READERS[node.target]
        source = node.args[position]
        return [(str(source.target), kind, axis)] if isinstance(source, fx.Node) and source.op == "get_attr" else []
    if node.target in RECURRENT:
        parameters: Any = node.args[2]
        return [(str(p.target), RECURRENT[node.target], 0) for p in parameters if p.op == "get_attr" and len(p.meta["val"].shape) == 2]
    return []
