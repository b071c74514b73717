"""Widths under a budget: what they cost, and those of least loss that the budget pays."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

from torch import fx

from laconic.errors import LaconicError, UnreachableError
from laconic.numeric.allocation import Allocation, Options, allocate, undominated
from laconic.program import packed, packed_bytes, read
from laconic.program.fold import bias_of
from laconic.program.forms import kept
from laconic.program.represent import representations
from laconic.quantize.placement import Sites
from laconic.quantize.sensitivity import Allotment, Losses
from laconic.quantize.tied import Tied, tied

_FLOAT = 32  # bits of values that are not quantized


@dataclass(frozen=True)
class Budget:
    """What all widths may cost together, in whole units."""

    limit: int
    cost: Callable[[str, int, int], int]  # of a weight, by its name, its width and the width of the values that it is multiplied with
    said: Callable[[int], str]  # a sum of costs, in words


def bits_budget(sites: Sites, average: float) -> Budget:
    """Return the budget of so many bits for each weight on average; those that a mask holds at zero have no code and do not count."""
    coded = entries(sites)
    total = sum(coded.values())
    return Budget(
        math.floor(average * total), lambda name, width, _: coded[name] * width, lambda bits: f"{bits / total:.4g} bits on average"
    )


def bytes_budget(sites: Sites, limit: int, per_channel: bool, biases: bool) -> Budget:
    """Return the budget of so many packed bytes for the whole network, with scales, biases and what stays float.

    Args:
        sites: of a float program.
        limit: the bytes.
        per_channel: whether weights have a scale for each channel, or one.
        biases: whether layers without a bias are given one.
    """
    coded, program = entries(sites), sites.program
    codes = sum(packed(program, weight.name).arrays["values"].nbytes for weight in sites.weights)
    scales = sum(4 * (weight.value.shape[weight.axis] if per_channel else 1) for weight in sites.weights)
    new = sum(
        4 * len(read(program, str(each.all_input_nodes[1].target))) for each in sites.kernels if biases and bias_of(program, each) is None
    )
    fixed = packed_bytes(program) - codes + scales + new + 8 * len(sites.points)
    return Budget(limit - fixed, lambda name, width, _: math.ceil(coded[name] * width / 8), lambda cost: f"{fixed + cost:,} bytes")


def mac_bits_budget(sites: Sites, average: float, macs: Mapping[str, int]) -> Budget:
    """Return the budget of so many products of weight bits and activation bits for each multiply-accumulate on average.

    Args:
        sites: of a float program.
        average: the products; 64 where both have 8 bits.
        macs: multiply-accumulates of each node, by name.
    """
    spent = {weight.name: sum(macs[reader.name] for reader in weight.readers) for weight in sites.weights}
    total = sum(spent.values())
    return Budget(
        math.floor(average * total),
        lambda name, width, values: spent[name] * width * values,
        lambda cost: f"{cost / total:.4g} weight bits x activation bits on average",
    )


def entries(sites: Sites) -> dict[str, int]:
    """Return how many entries of each weight have a code: those that no mask holds at zero."""
    masks = {weight.name: kept(representations(sites.program, weight.name)) for weight in sites.weights}
    return {weight.name: weight.value.numel() if (mask := masks[weight.name]) is None else int(mask.sum()) for weight in sites.weights}


def check_choice(budget: Budget, sites: Sites, weight_bits: tuple[int, ...], activation_bits: tuple[int, ...]) -> None:
    """Find budgets that leave no choice between widths.

    Raises:
        UnreachableError: the narrowest widths cost more than the budget.
        LaconicError: the widest cost no more.
    """
    least, most = (sum(budget.cost(each.name, pick(weight_bits), pick(activation_bits)) for each in sites.weights) for pick in (min, max))
    narrow, wide = (f"weights at {pick(weight_bits)} bits and activations at {pick(activation_bits)}" for pick in (min, max))
    if least > budget.limit:
        raise UnreachableError(
            f"no widths meet the budget of {budget.said(budget.limit)}: the least possible is {budget.said(least)}, {narrow}"
        )
    if most <= budget.limit:
        raise LaconicError(
            f"the budget of {budget.said(budget.limit)} leaves nothing to choose: {wide} need {budget.said(most)}; "
            "lower the budget, or use quantize.Static with these widths"
        )


def widths_within(budget: Budget, sites: Sites, losses: Losses) -> tuple[Allotment, Allocation]:
    """Return the widths of least summed loss that the budget pays."""
    groups = tied(sites)
    items = [_item(group, losses, budget) for group in groups]
    found = allocate([item.options for item in items], budget.limit)
    assert found is not None, "checked before"
    weights, activations = dict[str, int](), dict[fx.Node, int]()
    for group, item, position in zip(groups, items, found.choice, strict=True):
        bits, widths = item.widths[position]
        activations |= dict.fromkeys(group.values, bits)
        weights |= {weight.name: width for weight, width in zip(group.weights, widths, strict=True)}
    return Allotment(weights, activations), found


@dataclass(frozen=True)
class _Item:
    """The undominated widths of something tied, with what they cost and lose."""

    options: Options
    widths: list[tuple[int, tuple[int, ...]]]  # of the values, and of each weight


def _item(group: Tied, losses: Losses, budget: Budget) -> _Item:
    found: list[tuple[int, float, int, tuple[int, ...]]] = []
    of_values = _summed([losses.activations[node] for node in group.values])
    for bits, loss in of_values.items():
        sums: list[tuple[int, float, tuple[int, ...]]] = [(0, loss, ())]
        for weight in group.weights:
            more = [
                (paid + budget.cost(weight.name, width, bits), lost + own, (*widths, width))
                for (paid, lost, widths), (width, own) in product(sums, losses.weights[weight.name].items())
            ]
            sums = [more[position] for position in undominated([(paid, lost) for paid, lost, _ in more])]
        found += [(paid, lost, bits, widths) for paid, lost, widths in sums]
    useful = [found[position] for position in undominated([(paid, lost) for paid, lost, _, _ in found])]
    return _Item([(paid, lost) for paid, lost, _, _ in useful], [(bits, widths) for _, _, bits, widths in useful])


def _summed(losses: list[Mapping[int, float]]) -> dict[int, float]:
    """Return what each width costs that several values have together."""
    return {bits: sum(each[bits] for each in losses) for bits in losses[0]} if losses else {_FLOAT: 0.0}
