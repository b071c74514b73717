"""What every step that takes layers apart does: find the layers, choose ranks, put the parts in, fit and train them."""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from laconic.context import Context, calibration_inputs
from laconic.errors import NotApplicableError, UnreachableError
from laconic.factorize.plan import Choice, Curve, apart, candidates, check_rank, curves, seconds_of, stages, subjects, within
from laconic.factorize.refit import Part, refit
from laconic.factorize.replace import base_name, put
from laconic.factorize.ways import Option, Subject, Way
from laconic.goal import Budget
from laconic.measure import macs
from laconic.numeric.allocation import Allocation
from laconic.program import Program, clone, packed_bytes, tidy
from laconic.program.noise import decibels
from laconic.program.shapes import infer_shapes
from laconic.recover import check_trainable, retrain
from laconic.step import Patterns
from laconic.train import Training

_SHARE = 0.5  # of the multiply-accumulates, where nothing is asked for
_SLOWER = 1.02  # times the whole layer's seconds: from here on it is slower


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Factorized(Budget):
    """How far layers are taken apart, and what is done for what is left; where nothing is asked for, `macs` is a half."""

    own: ClassVar[str] = "rank"

    rank: Annotated[int, Field(ge=1, strict=True)] | Literal["variational"] | None = None  # of every layer; or by variational Bayes
    faster: bool = True  # leave layers whole that the runtime's profile shows to be slower in parts; where nothing is timed: leave it
    whiten: bool = True  # choose and fit by the outputs on calibration data; no: by the weights alone
    examples: Annotated[int, Field(ge=1)] = 64  # calibration inputs on which it is measured what an error in a layer does
    training: Training | None = None  # afterwards, on labels and the answers of the network as it came; None: none
    include: Patterns = ()  # name patterns of layers that may be taken apart; empty: all
    exclude: Patterns = ()  # name patterns of layers that stay whole

    @property
    def trains(self) -> bool:
        """Whether training data are needed."""
        return self.training is not None


def factorize(program: Program, settings: Factorized, ways: Sequence[Way], context: Context) -> Program:
    """Take the layers of a program apart, in place.

    Raises:
        LaconicError: the calibration data do not fit, a pattern matches nothing, a rank is above a layer's, or the target is out of reach.
        NotApplicableError: there is no layer to take apart.
    """
    check_trainable(context, settings.training)
    take_apart(program, choose(program, settings, ways, context), settings, context)
    retrain(program, settings.training, context, "training")
    return program


def choose(program: Program, settings: Factorized, ways: Sequence[Way], context: Context) -> Choice:
    """Return how layers are to be taken apart.

    Raises:
        LaconicError: the calibration data do not fit, a pattern matches nothing, a rank is above a layer's, or the target is out of reach.
        NotApplicableError: there is no layer to take apart.
    """
    inputs, whole = torch.cat(calibration_inputs(program, context)), clone(program).eval()
    found = subjects(whole, context, settings.whiten, settings.include, settings.exclude)
    if isinstance(settings.rank, int):
        check_rank(settings.rank, found, ways)
    known = curves(whole, found, ways, partial(_ranks, settings), inputs[: settings.examples], context.generator())
    picked = _picked(whole, known, settings, context)
    if not picked:
        raise NotApplicableError("no layer is taken apart: none would be faster or smaller")
    return Choice(tuple(curve.subject for curve in known if curve.name in picked), picked, len(found))


def take_apart(program: Program, choice: Choice, settings: Factorized, context: Context) -> None:
    """Put parts in the place of layers, in place, and fit them on calibration data to what the program computed."""
    whole, before = clone(program).eval(), (macs(program, context.example()), packed_bytes(program))
    by_weight, parts = {layer.weight: layer for layer in candidates(program)}, dict[str, Part]()
    for subject in choice.subjects:
        option, layer = choice.picked[base_name(subject.layer)], by_weight[subject.layer.weight]
        names = put(program, layer, stages(subject, option, context))
        parts[layer.node.name] = Part(subject, option, tuple(names))
    tidy(program)
    infer_shapes(program)
    if settings.whiten:
        refit(program, whole, parts, context)
        unsure = [base_name(subject.layer) for subject in choice.subjects if subject.doubt > 0.5]
        if unsure:
            context.note(f"few examples: moments of different inputs count little in {', '.join(unsure)}")
    after = macs(program, context.example()), packed_bytes(program)
    context.note(
        f"{len(parts)} of {choice.looked_at} layers taken apart: {before[0] / after[0]:.2f}x fewer multiply-accumulates, "
        f"{before[1] / after[1]:.2f}x fewer bytes"
    )


def _ranks(settings: Factorized, subject: Subject, way: Way) -> list[int] | None:
    """Return the rank that was asked for; None: a budget decides."""
    if settings.rank is None:
        return None
    return [way.variational(subject) if settings.rank == "variational" else min(settings.rank, way.limit(subject))]


def _picked(whole: Program, known: list[Curve], settings: Factorized, context: Context) -> dict[str, Option]:
    """Return the chosen option of each layer that is taken apart, and say why."""
    if settings.rank is not None:
        picked = {curve.name: min(curve.options, key=lambda each: each.error) for curve in known}
        _tell(known, picked, context)
        return picked
    unit, share = settings.asked or ("macs", _SHARE)
    timed, left = settings.faster and unit != "bytes" and context.layer_seconds is not None, set[str]()
    while True:
        open_ones = [curve for curve in known if curve.name not in left]
        if not open_ones:
            return {}
        picked, allocation = _within(whole, open_ones, unit, share, context, left)
        slower = _slower(whole, known, picked, context) if timed else []
        if not slower:
            break
        context.note(f"slower in parts, so left whole: {', '.join(slower)}")
        left.update(slower)
    context.note(
        f"{unit} {share:g}: predicted error {decibels(allocation.loss)} of the outputs, at most "
        f"{allocation.gap / allocation.loss if allocation.loss else 0:.2%} above the least possible"
    )
    _tell(known, picked, context)
    return picked


def _within(
    whole: Program, known: list[Curve], unit: str, share: float, context: Context, left: Collection[str]
) -> tuple[dict[str, Option], Allocation]:
    """Choose within the budget, and say where it cannot be met what was left whole before."""
    try:
        return within(whole, known, unit, share, context)
    except UnreachableError as error:
        if not left:
            raise
        raise UnreachableError(
            f"{error}, and {len(left)} layers stay whole because they would be slower in parts: {', '.join(sorted(left))}; "
            "faster: false takes them apart too"
        ) from None


def _slower(whole: Program, known: Sequence[Curve], picked: dict[str, Option], context: Context) -> list[str]:
    """Return the layers that take longer in parts, by the runtime's profile of the whole network and of the one in parts."""
    before, after = context.profiler()(whole), context.profiler()(apart(whole, known, picked, context))
    return [name for name in picked if seconds_of(after, name) > _SLOWER * seconds_of(before, name) > 0]


def _tell(known: Sequence[Curve], picked: dict[str, Option], context: Context) -> None:
    for curve in known:
        if curve.name in picked:
            option = picked[curve.name]
            context.note(f"{curve.name}: {option}, error {decibels(option.error)} of its outputs")
