"""Products of tensors: matrix products in all their spellings, einsum, attention."""

from typing import Any

import torch
from torch import fx

from laconic.program.axes import MisfitError, Term
from laconic.program.rules.table import rule
from laconic.program.walk import Axes, Node, Walk, argument, where

aten = torch.ops.aten


@rule(aten.matmul, aten.bmm, aten.mm, aten.mv, aten.dot, aten.vdot, aten.inner)
def _matmul(walk: Walk, node: Node) -> Axes:
    first, second = walk.of(node.args[0]), walk.of(node.args[1])
    if node.target is aten.inner.default and len(second) > 1:
        second = [*second[:-2], second[-1], second[-2]]
    return _multiplied(walk, node, first, second, list(node.args[:2]))


def _multiplied(walk: Walk, node: Node, first: Axes, second: Axes, factors: list[Node]) -> Axes:
    """Return the axes of a matrix product of possibly batched, possibly one-dimensional operands."""
    walk.contract(node, first[-1], second[-2] if len(second) > 1 else second[0], factors)
    batch = walk.broadcast(node, first[:-2], second[:-2])
    _mark_heads(walk, batch)
    return [*batch, *first[-2:-1], *(second[-1:] if len(second) > 1 else [])]


def _mark_heads(walk: Walk, batch: Axes) -> None:
    for term in batch:
        walk.algebra.heads.update(walk.algebra.leaves(term))


@rule(aten.addmm, aten.baddbmm, aten.addmv)
def _addmm(walk: Walk, node: Node) -> Axes:
    added, first, second = (walk.of(factor) for factor in node.args[:3])
    return walk.broadcast(node, _multiplied(walk, node, first, second, list(node.args[1:3])), added)


@rule(aten.addbmm)
def _addbmm(walk: Walk, node: Node) -> Axes:
    added, first, second = (walk.of(factor) for factor in node.args[:3])
    batch, *result = _multiplied(walk, node, first, second, list(node.args[1:3]))
    walk.add_up(node, batch, list(node.args[1:3]))
    return walk.broadcast(node, result, added)


@rule(aten.outer, aten.ger)
def _outer(walk: Walk, node: Node) -> Axes:
    return [*walk.of(node.args[0]), *walk.of(node.args[1])]


@rule(aten.scaled_dot_product_attention)
def _attention(walk: Walk, node: Node) -> Axes:
    query, key, value = (walk.of(factor) for factor in node.args[:3])
    walk.contract(node, query[-1], key[-1], list(node.args[:2]))
    walk.unify(key[-2], value[-2], node)
    walk.algebra.blur(key[-2], f"{where(node)}: normalizes over these channels")
    for ours, theirs in zip(key[:-2], value[:-2], strict=True):
        walk.unify(ours, theirs, node)
    for i, (ours, theirs) in enumerate(zip(query[:-2], key[:-2], strict=True)):
        sizes = walk.algebra.size(ours), walk.algebra.size(theirs)
        if i == len(query) - 3 and argument(node, "enable_gqa") and sizes[0] != sizes[1]:
            ours, _ = walk.algebra.split_product(ours, sizes[1], sizes[0] // sizes[1])
        if sizes[0] == sizes[1] or walk.algebra.size(ours) == sizes[1]:
            walk.unify(ours, theirs, node)
    mask = argument(node, "attn_mask")
    if isinstance(mask, fx.Node):
        walk.broadcast(node, [*query[:-1], key[-2]], walk.of(mask))
    _mark_heads(walk, query[1:-2])
    return [*query[:-1], value[-1]]


@rule(aten.einsum)
def _einsum(walk: Walk, node: Node) -> Axes:
    """Letters name dimensions; those that the result lacks are added up. Dots stand for dimensions that are broadcast."""
    tensors: list[Any] = list(node.args[1])
    inputs, output = _spelled(str(node.args[0]).replace(" ", ""), [len(walk.of(tensor)) for tensor in tensors])
    named: dict[str, Term] = {}
    for letters, tensor in zip(inputs, tensors, strict=True):
        for letter, term in zip(letters, walk.of(tensor), strict=True):
            [named[letter]] = walk.broadcast(node, [named.get(letter, term)], [term])
    for letter in named.keys() - set(output):
        walk.add_up(node, named[letter], [tensor for letters, tensor in zip(inputs, tensors, strict=True) if letter in letters])
    return [named[letter] for letter in output]


def _spelled(equation: str, dimensions: list[int]) -> tuple[list[str], str]:
    """Write an einsum with digits in place of its dots and with its result; returns the letters of the operands and of the result."""
    inputs, arrow, output = equation.partition("->")
    operands = inputs.split(",")
    counts = [count - len(letters.replace("...", "")) for letters, count in zip(operands, dimensions, strict=True) if "..." in letters]
    most = max(counts, default=0)
    if most > 9:
        raise MisfitError("an einsum of too many dimensions")
    dots = "9876543210"[-most:] if most else ""
    if not arrow:
        letters = inputs.replace("...", "").replace(",", "")
        output = "..." + "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    spelled = [
        letters.replace("...", dots[most - (count - len(letters) + 3) :]) if "..." in letters else letters
        for letters, count in zip(operands, dimensions, strict=True)
    ]
    return spelled, output.replace("...", dots)
