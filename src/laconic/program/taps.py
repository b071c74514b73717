"""Places in a network where one value carries everything on, under the name of the layer before: where two networks can be compared."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from laconic.errors import LaconicError, NotApplicableError
from laconic.program.blocks import trunk
from laconic.program.layers import layer_at
from laconic.program.program import Program, tree
from laconic.program.select import weights


@dataclass(frozen=True)
class Tap:
    """A value of the trunk."""

    name: str  # of the last layer before it
    node: str
    channels: int
    positions: tuple[int, ...]  # sizes of its other axes, without the batch: pixels, times or tokens
    axis: int  # of the channels, the batch counted
    depth: float  # share of the layers that are before it

    def __str__(self) -> str:
        where = "x".join(map(str, self.positions))
        return f"{self.name} ({self.channels} channels{f', {where} positions' if where else ''})"


def taps(program: Program) -> list[Tap]:
    """Return the places of a program, in network order, the last after every layer; the output is none of them."""
    readers = {node: weight for weight in weights(program) for node in weight.readers}
    carried, outputs = set(trunk(program)), set(next(node for node in program.graph.nodes if node.op == "output").all_input_nodes)
    found, passed, last = dict[str, Tap](), 0, None
    for node in program.graph.nodes:
        if node in readers:
            passed, last = passed + 1, node
        value = node.meta.get("val")
        if last is None or node not in carried or node in outputs or not isinstance(value, Tensor):
            continue
        if value.ndim < 2 or not value.is_floating_point():
            continue
        layer = layer_at(last)
        axis = 1 if value.ndim > 2 and layer is not None and layer.spatial else value.ndim - 1
        sizes = [int(size) for size in value.shape[1:]]
        channels = sizes.pop(axis - 1)
        name = readers[last].name.rpartition(".")[0] or readers[last].name
        tap = Tap(name, node.name, channels, tuple(sizes), axis, passed / len(readers))
        found[f"{name} {len(sizes)}"] = tap  # what is pooled behind a layer has a place of its own
    return list(found.values())


def matched(student: Sequence[Tap], teacher: Sequence[Tap]) -> list[tuple[Tap, Tap]]:
    """Pair the places of two networks: of every size of positions that both have, the last of each.

    Where the student's have one size, as in transformers, they are those nearest to a third, two thirds and all of its depth, and the
    teacher's of that size those of nearest depth.

    Raises:
        LaconicError: they have no size in common; lists the places of both.
    """
    sizes = [tap.positions for tap in student]
    if len(set(sizes)) == 1 and len(student) > 1:
        alike = [tap for tap in teacher if tap.positions == sizes[0]]
        chosen = dict.fromkeys(_nearest(depth, student) for depth in (1 / 3, 2 / 3, 1.0))
        pairs = [(tap, _nearest(tap.depth, alike)) for tap in chosen] if alike else []
    else:
        ours, theirs = ({tap.positions: tap for tap in each} for each in (student, teacher))
        pairs = [(tap, theirs[size]) for size, tap in ours.items() if size in theirs]
    if not pairs:
        raise NotApplicableError(f"no place of the student has as many positions as one of the teacher; {_listed(student, teacher)}")
    return pairs


def named(student: Sequence[Tap], teacher: Sequence[Tap], names: Sequence[tuple[str, str]]) -> list[tuple[Tap, Tap]]:
    """Pair places by the names of their layers, the student's first.

    Raises:
        LaconicError: there is no such place; lists those of both networks.
    """
    return [(_named(ours, student, student, teacher), _named(theirs, teacher, student, teacher)) for ours, theirs in names]


def tapped(program: Program, nodes: Sequence[str]) -> Program:
    """Return a program over the same tensors that gives the output and the values of `nodes`, as a tuple.

    Both share every parameter: training one trains the other. Modes are their own.
    """
    graph = copy.deepcopy(program.graph)
    by_name = {node.name: node for node in graph.nodes}
    output: fx.Node = next(node for node in graph.nodes if node.op == "output")
    first = output.all_input_nodes[0]
    output.args = ((first, *(by_name[name] for name in nodes)),)
    shared = Program(tree(program), graph, program.inputs, program.aliases)
    return shared.train(program.training)


def _nearest(depth: float, places: Sequence[Tap]) -> Tap:
    return min(places, key=lambda tap: abs(tap.depth - depth))


def _named(name: str, places: Sequence[Tap], student: Sequence[Tap], teacher: Sequence[Tap]) -> Tap:
    found = [tap for tap in places if tap.name == name]
    if not found:
        raise LaconicError(f"there is no place behind a layer {name!r}; {_listed(student, teacher)}")
    return found[0]


def _listed(student: Sequence[Tap], teacher: Sequence[Tap]) -> str:
    return f"the student's: {', '.join(map(str, student)) or 'none'}; the teacher's: {', '.join(map(str, teacher)) or 'none'}"
