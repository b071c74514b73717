"""Fit the parts of layers, in network order, to what the whole network computes from what they now read.

Source: X. Zhang, J. Zou, K. He, J. Sun, "Accelerating Very Deep Convolutional Networks for Classification and Detection", TPAMI 2016,
section 3.3 (asymmetric reconstruction): the inputs are those that the layers before, taken apart already, give; the outputs wanted are
those of the whole network. Batch norm's statistics are measured anew on the way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from laconic.context import Context
from laconic.factorize.plan import stages
from laconic.factorize.replace import followed_by_norm
from laconic.factorize.ways import Option, Subject
from laconic.numeric.decomposition import ridged
from laconic.program import Program, read
from laconic.program.observe import examples_at_once, side_by_side
from laconic.program.walk import Node
from laconic.recover import measure_norm, running_norms

_AT_ONCE = 64  # examples


@dataclass(frozen=True)
class Part:
    """A layer that was taken apart, and where."""

    subject: Subject
    option: Option
    names: tuple[str, ...]  # of its new weights, in order


@torch.no_grad()
def refit(program: Program, whole: Program, parts: Mapping[str, Part], context: Context) -> None:
    """Fit the parts, in place.

    Args:
        program: with its layers taken apart; nodes have the names that they have in `whole`.
        whole: the program as it was.
        parts: by the name of the node of the whole layer.
        context: gives the calibration data.
    """
    inputs = torch.cat(list(context.calibration()))[: examples_at_once(whole)]
    first = {_beginning(program, part): part for part in parts.values() if not part.subject.is_table}  # which read no values
    sources, seen = {part.subject.layer.source.name for part in parts.values()}, dict[str, Tensor]()
    norms = running_norms(program)
    for each, values, reference in side_by_side(program.eval(), whole.eval(), inputs):
        node: Node = each
        if node.name in sources:
            value = inputs if node.op == "placeholder" else reference
            assert value is not None, "the program has the whole one's nodes under their names"
            seen[node.name] = value
        if node in first:
            part = first[node]
            _fit(program, part, values[node.args[0]], seen[part.subject.layer.source.name], context)
        elif node in norms:
            measure_norm(program, node, values[node.args[0]])


def _beginning(program: Program, part: Part) -> fx.Node:
    """Return the node of the first of the parts."""
    [weight] = [node for node in program.graph.nodes if node.op == "get_attr" and node.target == part.names[0]]
    first: fx.Node = next(iter(weight.users))
    return first


def _fit(program: Program, part: Part, now: Tensor, before: Tensor, context: Context) -> None:
    layer = part.subject.layer
    size = layer.inputs + 1
    moments, crossed = (torch.zeros(size, size, dtype=torch.float64) for _ in range(2))
    count = 0
    for start in range(0, len(now), _AT_ONCE):
        ours, theirs = (_with_one(part.subject.rows(value[start : start + _AT_ONCE])) for value in (now, before))
        moments += ours.T @ ours
        crossed += theirs.T @ ours
        count += len(ours)
    moments, crossed = moments / count, crossed / count
    centred = layer.bias is not None or followed_by_norm(layer.node)
    ours_mean, theirs_mean = moments[-1, :-1], crossed[:-1, -1]
    moments, crossed = moments[:-1, :-1], crossed[:-1, :-1]
    if centred:
        moments, crossed = moments - ours_mean.outer(ours_mean), crossed - theirs_mean.outer(ours_mean)
    weight, doubt = part.subject.weight, part.subject.doubt
    energy = doubt * moments.diagonal().diag()  # of both, so that what few examples leave open stays the whole layer's
    moments, crossed = (1 - doubt) * moments + energy, (1 - doubt) * crossed + energy
    wanted = torch.linalg.solve(ridged(moments), (weight @ crossed).T).T
    subject = replace(part.subject, weight=wanted, moments=ridged(moments), found={})
    made = stages(subject, part.option, context)
    for name, stage in zip(part.names, made, strict=True):
        stored = read(program, name)
        stored.copy_(stage.weight.reshape(stored.shape))
    if layer.bias is not None:
        bias = read(program, layer.bias)
        fitted = part.option.way.product(made)
        bias += (weight @ theirs_mean - fitted @ ours_mean).to(bias)


def _with_one(rows: Tensor) -> Tensor:
    """Return rows with a 1 at their end, float64: what is left when means are taken off may be small."""
    return torch.cat([rows, torch.ones_like(rows[:, :1])], 1).double()
