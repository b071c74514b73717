"""What pruning of filters and of heads share: settings, the choice of channels for a target, the cut, recovery and training in rounds."""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from laconic.context import Context
from laconic.errors import LaconicError, NotApplicableError, UnreachableError
from laconic.goal import Goal, Unit
from laconic.program import Program, clone, weights
from laconic.program.cost import mac_costs
from laconic.program.cut import KeptChannels, cut, slices
from laconic.program.groups import Found, Group, find
from laconic.program.select import matches
from laconic.prune.ranking import Importance, Ranking, ranking
from laconic.prune.shrinking import Shrinking
from laconic.prune.target import TOLERANCE, Target, check_reachable, choose, cost
from laconic.recover import Recovery, check_data, recover, retrain
from laconic.step import Patterns
from laconic.train import Training

_RATIO = 0.5  # removed where no target is given
_TRIALS = 8  # networks that are exported and timed for a latency


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Structured(Goal):
    """How many structures go, which, and what is done for those that stay."""

    scope: Literal["global", "group"] = "global"  # rank all groups together, or take the ratio from each
    importance: Importance = "obs"  # what the structures are ranked by; obs: the loss left when the others have adjusted
    floor: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of each group that stays in any case; one at least (not with scope group)
    recovery: Recovery = "least-squares"  # of the layers that read what was cut, on unlabelled calibration data (not with shrink)
    rounds: Annotated[int, Field(ge=1)] = 1  # in how many steps the target is approached, with recovery and training after each
    training: Training | None = None  # after each round, on labels and the answers of the network as it came; None: none
    include: Patterns = ()  # name patterns of layers whose outputs may be cut; empty: all
    exclude: Patterns = ()  # name patterns of layers whose outputs stay whole, e.g. ("classifier*",)

    @model_validator(mode="after")
    def _no_rank_within_groups(self) -> Self:
        unit, _ = self.goal(_RATIO)
        if self.scope == "group" and unit != "structures":
            raise ValueError(f"scope='group' takes a ratio from each group; with {unit} the groups are ranked together")
        return self

    @property
    def trains(self) -> bool:
        """Whether training data are needed."""
        return self.training is not None


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step asks of this module."""

    settings: Structured
    chosen: Callable[[Group], bool]  # the groups that the step is about
    what: str  # "filter", "head": in words
    multiple_of: int = 1
    shrink: float | None = None  # growing decay of the doomed, in place of rounds


def prune(program: Program, work: Work, context: Context) -> Program:
    """Cut a program to a target, in place, and recover it.

    Raises:
        LaconicError: the calibration data do not fit, a pattern matches nothing, or the target is out of reach. In the first round nothing
            has been cut then.
        NotApplicableError: there is nothing of the kind to cut; says what froze the axes.
    """
    settings = work.settings
    check_data(program, context, settings.training)
    unit, share = settings.goal(_RATIO)
    rounds, origin = settings.rounds, _origin(program, work, unit, share)
    for number in range(1, rounds + 1):
        keep, found = _choose(program, work, unit, share ** (number / rounds), origin, context)
        if work.shrink is not None:
            _cut_while_training(program, work, keep, context)
        else:
            _cut_and_recover(program, keep, found, settings, context)
            retrain(program, settings.training, context, f"round {number} of {rounds}")
    return program


@dataclasses.dataclass(frozen=True)
class _Origin:
    """The network before the first round, of which targets and floors are shares."""

    cost: int  # in the unit of the target
    channels: dict[frozenset[tuple[str, int]], int]  # of each group, by where it lives; names of groups may change with a cut

    def of(self, group: Group) -> int:
        return self.channels.get(_places(group), group.channels)


def _places(group: Group) -> frozenset[tuple[str, int]]:
    return frozenset((slot.tensor, slot.axis) for slot in group.slots)


def _origin(program: Program, work: Work, unit: Unit | Literal["latency"], share: float) -> _Origin:
    """Return what the rounds start from, when the target can be reached from there."""
    found = find(program)
    groups, settings = _groups(program, found, work), work.settings
    if settings.scope == "group":
        _check_none_vanishes(groups, share)
    elif unit != "latency":
        check_reachable(found, groups, Target(unit, share, settings.floor, work.multiple_of))
    whole = cost(found, groups, "macs" if unit == "latency" else unit)
    return _Origin(whole, {_places(group): group.channels for group in groups})


def _choose(
    program: Program, work: Work, unit: Unit | Literal["latency"], goal: float, origin: _Origin, context: Context
) -> tuple[dict[str, list[int]], Found]:
    """Choose what stays for a goal that is a share of the origin."""
    found = find(program)
    groups = _groups(program, found, work)
    order = ranking(work.settings.importance, found, groups, context)
    if unit == "latency":
        share = work.settings.goal(_RATIO)[1] ** (1 / work.settings.rounds)  # of the time that it takes now
        return _for_latency(found, groups, order, share, _target(work, groups, "macs", 1.0, origin), context), found
    if work.settings.scope == "group":
        shares = {group.name: goal * origin.of(group) / group.channels for group in groups}
        targets = [Target("structures", shares[group.name], 0.0, work.multiple_of) for group in groups]
        chosen = [choose(found, [group], order, target) for group, target in zip(groups, targets, strict=True)]
        return {name: kept for each in chosen for name, kept in each.items()}, found
    share = goal * origin.cost / cost(found, groups, unit)
    keep = choose(found, groups, order, _target(work, groups, unit, share, origin))
    left = cost(found, groups, unit, keep) / origin.cost
    context.note(f"{left:.3f} of the {unit} left, {goal:.3f} asked")
    return keep, found


def _target(work: Work, groups: Sequence[Group], unit: Unit, share: float, origin: _Origin) -> Target:
    floor = work.settings.floor
    least = {group.name: max(1, math.ceil(round(floor * origin.of(group), 6))) for group in groups}
    return Target(unit, share, floor, work.multiple_of, least)


def _groups(program: Program, found: Found, work: Work) -> list[Group]:
    """Return the groups of the step's kind that the patterns leave."""
    include, exclude = work.settings.include, work.settings.exclude
    producers = {weight.name: weight.axis for weight in weights(program)}
    if include or exclude:
        weights(program, include, exclude)  # a pattern that matches nothing is an error
    multiplied = frozenset[int]().union(*(cost.symbols for cost in mac_costs(found.walk)))
    groups = [group for group in found.groups if work.chosen(group) and group.channels > 1 and group.symbol in multiplied]
    if not groups:
        reasons = sorted({frozen.reason for frozen in found.frozen})
        raise NotApplicableError(f"the network has no {work.what} to prune; its axes stay whole because of: " + "; ".join(reasons[:8]))
    names = {group.name: [slot.tensor for slot in group.slots if producers.get(slot.tensor) == slot.axis] for group in groups}
    left = [g for g in groups if _wanted(names[g.name] or [slot.tensor for slot in g.slots], include, exclude)]
    if not left:
        raise LaconicError(f"no group of {work.what}s is left after include={include} and exclude={exclude}; there are {', '.join(names)}")
    return left


def _wanted(names: Sequence[str], include: Patterns, exclude: Patterns) -> bool:
    included = not include or any(matches(name, include) for name in names)
    return included and not any(matches(name, exclude) for name in names)


def _check_none_vanishes(groups: Sequence[Group], share: float) -> None:
    gone = [f"{group.name} ({group.channels} channels)" for group in groups if round(group.channels * share, 6) < 1]
    if gone:
        raise LaconicError(f"nothing would be left of {', '.join(gone)}; ask for a smaller ratio, or exclude them")


def _for_latency(
    found: Found, groups: Sequence[Group], order: Ranking, share: float, target: Target, context: Context
) -> dict[str, list[int]]:
    """Find the share of the multiply-accumulates that takes the asked share of the time, by halving."""
    program, latency = found.walk.program, context.timer()
    low, high, best, seen = 0.0, 1.0, dict[str, list[int]](), 1.0
    for _ in range(_TRIALS):
        macs = (low + high) / 2
        try:
            keep = choose(found, groups, copy.deepcopy(order), dataclasses.replace(target, share=macs))
        except UnreachableError:
            low = macs
            continue
        took = latency(program, cut(clone(program), keep))
        if abs(took - share) < abs(seen - share):
            best, seen = keep, took
        if abs(took - share) <= TOLERANCE / 2 * share:
            break
        low, high = (low, macs) if took > share else (macs, high)
    if seen > share * (1 + 5 * TOLERANCE):
        raise UnreachableError(f"latency={share:g} cannot be reached: {seen:.3f} of the time was the least that was measured")
    context.note(f"{seen:.3f} of the latency as measured while choosing")
    return best


def _cut_and_recover(program: Program, keep: KeptChannels, found: Found, settings: Structured, context: Context) -> None:
    whole, sliced = clone(program), slices(program, keep)
    cut(program, keep, found)
    fitted = recover(program, whole, sliced, context, settings.recovery)
    _note(found, keep, fitted, context)


def _note(found: Found, keep: KeptChannels, fitted: Sequence[str], context: Context) -> None:
    channels = {group.name: group.channels for group in found.groups}
    for name, kept in keep.items():
        context.note(f"{name}: {channels[name]} -> {len(kept)}")
    if fitted:
        context.note(f"least squares on calibration data: {', '.join(fitted)}")


def _cut_while_training(program: Program, work: Work, keep: KeptChannels, context: Context) -> None:
    """Let the doomed channels fade while training, cut them half way, and train on."""
    assert work.settings.training is not None
    assert work.shrink is not None
    shrinking = Shrinking(program, keep, work.shrink)
    retrain(program, work.settings.training, context, "pruning while training", shrinking)
    for name, kept in keep.items():
        context.note(f"{name}: {len(kept)} channels stay")
