"""Blocks: parts of a network that give back a value of the shape that they take, so that the network can do without them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx

from laconic.program.program import Program, tidy
from laconic.program.select import weights
from laconic.program.shapes import infer_shapes

aten = torch.ops.aten


@dataclass(frozen=True)
class Block:
    """A part of a program between two values of one shape."""

    name: str  # of its first layer
    start: str  # node whose value it takes
    end: str  # node whose value it gives
    layers: tuple[str, ...]  # the weights that only it reads


def blocks(program: Program) -> list[Block]:
    """Return the blocks that could go, in network order: the branches of residual sums, and stretches of the trunk.

    The trunk is where one value alone carries everything on; a stretch of it goes from one such value before a layer to the next. Where
    a branch and a stretch hold the same layers, the stretch stands for both.
    """
    readers = {node: weight.name for weight in weights(program) for node in weight.readers}
    found = [*_stretches(program, readers), *_branches(program, readers)]
    unique: dict[tuple[str, ...], Block] = {}
    for block in found:
        if block.layers:
            unique.setdefault(block.layers, block)
    order = {node.name: position for position, node in enumerate(program.graph.nodes)}
    return sorted(unique.values(), key=lambda block: order[block.end])


def remove(program: Program, block: Block) -> Program:
    """Let what read the block's result read what the block took, in place; the layers that nothing reads any more are gone."""
    by_name = {node.name: node for node in program.graph.nodes}
    by_name[block.end].replace_all_uses_with(by_name[block.start])
    tidy(program)
    return infer_shapes(program)


def only_for(program: Program, block: Block) -> list[fx.Node]:
    """Return the nodes that go with the block: what nothing needs any more once its start stands for its end."""
    by_name = {node.name: node for node in program.graph.nodes}
    needed = set[fx.Node]()
    for node in reversed(program.graph.nodes):
        if node.op in ("output", "placeholder") or node in needed:
            needed |= {by_name[block.start] if each.name == block.end else each for each in node.all_input_nodes}
    return [node for node in program.graph.nodes if node not in needed and node.op not in ("output", "placeholder")]


def pieces(program: Program) -> list[tuple[fx.Node, fx.Node]]:
    """Cut the trunk before every layer: return the node whose value each piece takes, and the node whose value it gives.

    The layers of a residual block are in one piece with their sum, a layer of the trunk alone with what follows it up to the next. What
    comes behind the last node of the trunk, as where a network has several outputs, is in no piece.
    """
    readers = {node for weight in weights(program) for node in weight.readers}
    places, found = trunk(program), list[tuple[fx.Node, fx.Node]]()
    if not places:
        return []
    start, passed = places[0], list[fx.Node]()
    for before, after in pairwise(places):
        part = _between(program, before, after)
        if readers.intersection(passed) and readers.intersection(part):
            found.append((start, before))
            start, passed = before, []
        passed += part
    return [*found, (start, places[-1])] if passed else found


def _stretches(program: Program, readers: dict[fx.Node, str]) -> Iterator[Block]:
    for start, end in pieces(program)[:-1]:
        if _same_shape(start, end):
            yield _block(program, start, end, readers)


def _branches(program: Program, readers: dict[fx.Node, str]) -> Iterator[Block]:
    for node in program.graph.nodes:
        if node.target in (aten.add.Tensor, aten.add_.Tensor) and len(node.all_input_nodes) == 2:
            for kept, branch in (node.args[:2], node.args[1::-1]):
                if _same_shape(kept, node) and kept in _ancestors(branch):
                    yield _block(program, kept, node, readers)


def _block(program: Program, start: fx.Node, end: fx.Node, readers: dict[fx.Node, str]) -> Block:
    """Describe what is only computed for `end`, and so goes with it."""
    inside: set[fx.Node] = {end}
    for node in reversed(list(program.graph.nodes)):
        if node is not end and node.op == "call_function" and node.users and all(user in inside for user in node.users):
            inside.add(node)
    inside &= {end, *_ancestors(end)} - _ancestors(start) - {start}
    layers = [readers[node] for node in program.graph.nodes if node in inside and node in readers]
    outside = {readers[node] for node in readers if node not in inside}
    own = tuple(dict.fromkeys(name for name in layers if name not in outside))
    return Block(own[0].rpartition(".")[0] if own else "", start.name, end.name, own)


def trunk(program: Program) -> list[fx.Node]:
    """Return the nodes after which no other activation is needed any more."""
    activations, last_use = _activations(program), dict[fx.Node, int]()
    for position, node in enumerate(program.graph.nodes):
        last_use |= dict.fromkeys(node.all_input_nodes, position)
    found, alive = [], set[fx.Node]()
    for position, node in enumerate(program.graph.nodes):
        if node in activations:
            alive = {each for each in alive if last_use[each] > position} | {node}
            if alive == {node}:
                found.append(node)
    return found


def _activations(program: Program) -> set[fx.Node]:
    """Return the tensors that depend on an input."""
    found = set[fx.Node]()
    for node in program.graph.nodes:
        follows = node.op == "placeholder" or any(each in found for each in node.all_input_nodes)
        if follows and node.op != "output" and isinstance(node.meta.get("val"), Tensor | list | tuple):
            found.add(node)
    return found


def _between(program: Program, start: fx.Node, end: fx.Node) -> list[fx.Node]:
    nodes = list(program.graph.nodes)
    return nodes[nodes.index(start) + 1 : nodes.index(end) + 1]


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found, left = set[fx.Node](), [node]
    while left:
        for each in left.pop().all_input_nodes:
            if each not in found:
                found.add(each)
                left.append(each)
    return found


def _same_shape(first: Any, second: Any) -> bool:
    one, other = first.meta.get("val"), second.meta.get("val")
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return both and one.dtype == other.dtype and [str(size) for size in one.shape] == [str(size) for size in other.shape]
