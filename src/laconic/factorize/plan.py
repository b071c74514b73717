"""Which layer is taken apart how far: curves of what each rank costs and loses, and the choice of least loss within a budget."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, fx
from torch.nn.utils import parametrize

from laconic.context import Context
from laconic.errors import LaconicError, NotApplicableError, UnreachableError
from laconic.factorize.replace import as_value, base_name, put
from laconic.factorize.tables import read_often
from laconic.factorize.ways import Option, Stage, Subject, Way
from laconic.measure import macs
from laconic.numeric.allocation import Allocation, allocate
from laconic.numeric.moments import Moments
from laconic.program import Program, clone, packed, packed_bytes, read, tidy, weights
from laconic.program.layers import Layer, layers
from laconic.program.noise import relative_error, run
from laconic.program.observe import observe
from laconic.program.program import holder
from laconic.program.select import RECURRENT
from laconic.program.shapes import infer_shapes
from laconic.program.walk import Node, argument
from laconic.step import Patterns

_NANOSECONDS = 1e9
_TYPICAL = 0.05  # error of a layer's outputs at which it is measured what such an error does to the network's
_TIMED = 6  # ranks of each way that are timed, where a latency is asked for


@dataclass(frozen=True)
class Curve:
    """A layer, the ways that it may be taken apart, and what an error in it does."""

    subject: Subject
    options: tuple[Option, ...]
    sensitivity: float  # squared error of the network's outputs, as a share, for one in the layer's

    @property
    def name(self) -> str:
        """The layer's name."""
        return base_name(self.subject.layer)

    def loss(self, option: Option) -> float:
        """Return the predicted error of the network's outputs, as a share of their squares."""
        return self.sensitivity * option.error


@dataclass(frozen=True)
class Choice:
    """Which layers of a program are taken apart, and how."""

    subjects: tuple[Subject, ...]
    picked: dict[str, Option]  # by the layer's name
    looked_at: int  # layers


def subjects(program: Program, context: Context, whiten: bool, include: Patterns, exclude: Patterns) -> list[Subject]:
    """Return the layers that may be taken apart, with the moments of their inputs on calibration data.

    Raises:
        NotApplicableError: there is none; says why those that the patterns name are none.
    """
    chosen = {weight.name for weight in weights(program, include, exclude)}
    found = [layer for layer in candidates(program) if layer.weight in chosen and min(layer.shape[:2]) > 1]
    if not found:
        raise NotApplicableError(
            "there is nothing to take apart: a layer must be linear, an embedding, a 1-d or 2-d convolution without groups or the input of "
            "a one-way recurrent network, with two or more inputs and outputs, its weight read once and not represented otherwise"
        )
    named = [_subject(program, layer) for layer in found]
    return _with_moments(program, context, named) if whiten else named


def candidates(program: Program) -> list[Layer]:
    """Return the layers that can be taken apart, with what tables of embeddings and recurrent networks read as layers of their own.

    Of a table the weight is (words, length); of a recurrent network that goes one way it is what multiplies the input, (gates, in).
    """
    found, read_by = layers(program), Counter[str]()
    for node in program.graph.nodes:
        if node.op == "get_attr":
            read_by[str(node.target)] += len(node.users)
    for node in program.graph.nodes:
        source, weight = _reads(node)
        name = "" if weight is None else str(weight.target)
        if weight is not None and read_by[name] == 1 and not parametrize.is_parametrized(*holder(program, name)):
            found.append(Layer(node, source, name, None, tuple(int(size) for size in weight.meta["val"].shape)))
    return found


def _reads(node: Node) -> tuple[Node, Node | None]:
    """Return what a table or a recurrent network reads, and the stored weight that it meets; None where there is no such weight."""
    source, weight = None, None
    if node.target is torch.ops.aten.embedding.default:
        weight, source = node.args[:2]
    elif node.target in RECURRENT and not argument(node, "bidirectional"):
        source, weight = node.args[0], node.args[2][0]
    return source, weight if weight is not None and weight.op == "get_attr" else None


def _with_moments(program: Program, context: Context, found: Sequence[Subject]) -> list[Subject]:
    """Return the layers with the moments of what each reads."""
    by, totals = dict[fx.Node, list[Subject]](), dict[str, Moments]()
    words = dict[str, list[Tensor]]()
    for subject in found:
        by.setdefault(subject.layer.source, []).append(subject)
        if not subject.is_table:
            totals[subject.layer.weight] = Moments.of(subject.layer.inputs)

    def visit(node: fx.Node, value: Tensor) -> None:
        for subject in by[node]:
            if subject.is_table:
                words.setdefault(subject.layer.weight, []).append(value.flatten())
            else:
                totals[subject.layer.weight].add(subject.rows(value), len(value))

    observe(program, ((inputs,) for inputs in context.calibration()), by, visit)
    return [
        replace(subject, moments=read_often(torch.cat(words[name]), len(subject.weight)))
        if subject.is_table
        else replace(subject, moments=totals[name].shrunk, doubt=totals[name].doubt)
        for subject in found
        for name in [subject.layer.weight]
    ]


def _subject(program: Program, layer: Layer) -> Subject:
    value, source = layer.node.meta["val"], as_value(layer.source)
    if layer.node.target is torch.ops.aten.embedding.default:
        places = tuple(int(size) for size in value.shape[1:-1])
        return Subject(layer, read(program, layer.weight).detach().double(), None, math.prod(places), places, 0)
    if layer.node.target in RECURRENT:
        steps = (int(source.shape[1 if argument(layer.node, "batch_first") else 0]),)
        return Subject(layer, read(program, layer.weight).detach().double(), None, steps[0], steps, steps[0])
    after, before = ([int(size) for size in (each.shape[2:] if layer.spatial else each.shape[1:-1])] for each in (value, source))
    columns = after[0] * before[1] if layer.spatial == 2 else math.prod(after)
    weight = read(program, layer.weight).detach().double().flatten(1)
    return Subject(layer, weight, None, math.prod(before), tuple(after), columns)


def curves(
    program: Program,
    found: Sequence[Subject],
    ways: Sequence[Way],
    ranks: Callable[[Subject, Way], list[int] | None],
    inputs: Tensor,
    generator: torch.Generator,
) -> list[Curve]:
    """Return for each layer its options, and what an error in it does to the network's outputs on some inputs.

    Args:
        program: the whole one.
        found: its layers.
        ways: to look at.
        ranks: gives the ranks of a way; None: all that save something.
        inputs: calibration inputs that the network's outputs are compared on.
        generator: of what begins at random.

    Raises:
        NotApplicableError: no way saves anything anywhere.
    """
    wanted, made = run(program, inputs), list[Curve]()
    for subject in found:
        each = (way.options(subject, ranks(subject, way), generator) for way in ways if way.fits(subject))
        offered = tuple(chain.from_iterable(each))
        if offered:
            made.append(Curve(subject, offered, _sensitivity(program, subject, offered, inputs, wanted, generator)))
    if not made:
        raise NotApplicableError("no layer becomes smaller when it is taken apart; they are too small for these ways")
    return made


@torch.no_grad()
def _sensitivity(
    program: Program, subject: Subject, ways: Sequence[Option], inputs: Tensor, wanted: Tensor, generator: torch.Generator
) -> float:
    """Put the nearly typical error into one layer, and return how much of it there is at the output."""
    typical = min(ways, key=lambda each: abs(math.log(max(each.error, 1e-12) / _TYPICAL)))
    if typical.error <= 1e-9:
        return 1.0
    weight = read(program, subject.layer.weight)
    other = typical.way.product(typical.way.stages(subject, typical.ranks, generator)).reshape(weight.shape).to(weight)
    [operand] = [each for each in subject.layer.node.all_input_nodes if each.op == "get_attr" and each.target == subject.layer.weight]
    return relative_error(run(program, inputs, {operand: lambda _: other}), wanted) / typical.error


def within(program: Program, found: Sequence[Curve], unit: str, share: float, context: Context) -> tuple[dict[str, Option], Allocation]:
    """Choose for each layer a way or none, so that the network costs at most a share of what it does and loses least.

    Args:
        program: the whole one.
        found: its curves.
        unit: "macs", "bytes", or "latency", which is measured.
        share: of the whole network's.
        context: times layers where a latency is asked for.

    Returns:
        The options of the layers that are taken apart, by name, and the allocation with its gap.

    Raises:
        UnreachableError: the share cannot be reached; says what is.
    """
    costs = _Costs(program, found, unit, context)
    items = [[(costs.whole(curve), 0.0), *((costs.of(curve, option), curve.loss(option)) for option in curve.options)] for curve in found]
    budget = math.floor(share * costs.total) - (costs.total - sum(item[0][0] for item in items))
    allocation = allocate(items, budget)
    if allocation is None:
        least = (sum(min(cost for cost, _ in item) for item in items) + costs.total - sum(item[0][0] for item in items)) / costs.total
        raise UnreachableError(f"{unit}={share:g} cannot be reached: {least:.3f} is left when every layer has the smallest rank looked at")
    picked = {curve.name: curve.options[place - 1] for curve, place in zip(found, allocation.choice, strict=True) if place}
    return picked, allocation


class _Costs:
    """What a layer costs in a unit, whole or taken apart: whole numbers."""

    def __init__(self, program: Program, found: Sequence[Curve], unit: str, context: Context) -> None:
        self._program, self._unit = program, unit
        self._seconds = _timed(program, found, context) if unit == "latency" else {}
        if unit == "latency":
            self.total = round(_NANOSECONDS * sum(context.profiler()(program).values()))
        else:
            self.total = packed_bytes(program) if unit == "bytes" else macs(program, context.example())

    def whole(self, curve: Curve) -> int:
        if self._unit == "latency":
            return round(_NANOSECONDS * self._seconds[curve.name, None])
        return packed(self._program, curve.subject.layer.weight).bytes if self._unit == "bytes" else curve.subject.macs

    def of(self, curve: Curve, option: Option) -> int:
        if self._unit == "latency":
            seconds = self._seconds.get((curve.name, option))
            return round(_NANOSECONDS * seconds) if seconds is not None else self.total  # not timed: never chosen
        return 4 * option.parameters if self._unit == "bytes" else option.macs


def _timed(program: Program, found: Sequence[Curve], context: Context) -> dict[tuple[str, Option | None], float]:
    """Return the seconds of each layer, whole and in some ways, from profiles of networks of which all layers are taken apart."""
    spent = context.profiler()(program)
    times: dict[tuple[str, Option | None], float] = {(curve.name, None): seconds_of(spent, curve.name) for curve in found}
    for picked in _together(found):
        made = apart(program, found, picked, context)
        spent = context.profiler()(made)
        times |= {(name, option): seconds_of(spent, name) for name, option in picked.items()}
    return times


def _together(found: Sequence[Curve]) -> Iterator[dict[str, Option]]:
    """Yield choices for all layers at once, so that each way of a layer is in one, up to `_TIMED` of a kind."""
    for way in dict.fromkeys(option.way for curve in found for option in curve.options):
        for step in range(_TIMED):
            picked = dict[str, Option]()
            for curve in found:
                ways = sorted((option for option in curve.options if option.way is way), key=lambda each: each.macs)
                if ways:
                    picked[curve.name] = ways[round(step * (len(ways) - 1) / (_TIMED - 1))]
            yield picked


def seconds_of(spent: Mapping[str, float], name: str) -> float:
    """Return the seconds of a layer, or of all parts that it became."""
    return sum(seconds for each, seconds in spent.items() if each == name or each.startswith(f"{name}."))


def stages(subject: Subject, option: Option, context: Context) -> list[Stage]:
    """Return the layers that a layer becomes, in order."""
    return option.way.stages(subject, option.ranks, context.generator())


def apart(program: Program, found: Sequence[Curve], picked: Mapping[str, Option], context: Context) -> Program:
    """Return a copy whose layers are taken apart."""
    made = clone(program)
    by_weight = {layer.weight: layer for layer in candidates(made)}
    for curve in found:
        if curve.name in picked:
            put(made, by_weight[curve.subject.layer.weight], stages(curve.subject, picked[curve.name], context))
    tidy(made)
    return infer_shapes(made)


def check_rank(rank: int, found: Sequence[Subject], ways: Sequence[Way]) -> None:
    """Find a rank that a layer does not have.

    Raises:
        LaconicError: names the layer and its largest rank.
    """
    for subject in found:
        limits = [way.limit(subject) for way in ways if way.fits(subject)]
        if limits and rank > max(limits):
            raise LaconicError(
                f"rank {rank} is above the full rank of {base_name(subject.layer)}, {max(limits)}; give a smaller one, or exclude the layer"
            )
