"""How many zeros each layer gets: the same share, or by the noise that zeros make at the network's output, measured layer by layer.

Source: S. Han, J. Pool, J. Tran, W. Dally, "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, section 4
and figure 6 (the sensitivity of each layer to pruning, measured alone, sets its threshold). Here the noise is that of the output's
squares, as in Y. Zhou et al., "Adaptive Quantization for Deep Neural Network", AAAI 2018, and the shares of least summed noise are
found exactly (see `numeric.allocation`).
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, fx

from laconic.context import Context, calibration_inputs
from laconic.errors import LaconicError
from laconic.numeric.allocation import allocate
from laconic.program import Program, Weight
from laconic.program.noise import decibels, in_place_of, parted, relative_error, run, run_on
from laconic.program.observe import examples_at_once, stepwise
from laconic.train.progress import bar

Allocation: TypeAlias = Literal["uniform", "sensitivity"]
"""The same sparsity for all layers, or one for each by how much noise zeros make."""

Pruner: TypeAlias = Callable[[Weight, dict[fx.Node, Any]], Callable[[int], Tensor]]
"""Gives, for a weight and the values before its layer, what prunes the weight to so many zeros."""

_FINER = 2**0.5  # between the shares of weights that stay which are measured
_STEPS = range(-3, 5)  # so many times finer or coarser than the share that is asked for
_BETWEEN = 4  # parts that the way from one count that is measured to the next is cut into
_EXAMPLES = 64  # calibration inputs to measure on, half of all at most


def count_of(entries: int, sparsity: float) -> int:
    """Return how many entries a share of them is, rounded down.

    >>> count_of(100, 0.29)
    29
    """
    return int(round(sparsity * entries, 6))  # 0.29 * 100 is 28.999999999999996


def evenly(chosen: list[Weight], sparsity: float) -> dict[str, int]:
    """Return the same share of zeros for every weight, by name."""
    return {weight.name: count_of(weight.value.numel(), sparsity) for weight in chosen}


def by_sensitivity(
    program: Program, chosen: list[Weight], sparsity: float, held: Mapping[str, int], pruner: Pruner, context: Context
) -> dict[str, int]:
    """Return how many zeros each weight gets so that the output has the least noise, by the sum of what each weight's zeros make alone.

    Args:
        program: as it stands.
        chosen: the weights to prune.
        sparsity: share of all their entries together, rounded down to whole ones and met exactly.
        held: how many entries of each are zero already.
        pruner: prunes one of them alone.
        context: gives the calibration inputs, and takes the table.

    Raises:
        LaconicError: so many zeros would leave a weight with none that is not zero.
    """
    entries = {weight.name: weight.value.numel() for weight in chosen}
    counts = {name: _counts(number, held[name], sparsity) for name, number in entries.items()}
    inputs = torch.cat(calibration_inputs(program, context))[: max(2, examples_at_once(program) // 2)]
    noises = _noises(program, chosen, counts, pruner, *parted(inputs, _EXAMPLES))
    zeros = of_least_noise(entries, {name: interpolated(of) for name, of in noises.items()}, count_of(sum(entries.values()), sparsity))
    if zeros is None:
        raise LaconicError(f"a sparsity of {sparsity:g} leaves some of {len(chosen)} layers without a weight; lower it")
    for name, number in entries.items():
        told = ", ".join(f"{decibels(noise)} at {count / number:.0%}" for count, noise in noises[name].items() if noise)
        context.note(f"{name} gets {zeros[name] / number:.1%} zeros; alone they make noise of {told}")
    return zeros


def interpolated(noises: Mapping[int, float]) -> dict[int, float]:
    """Return noise by zeros with counts added between those given, where its decibels are taken to rise evenly.

    >>> {count: round(noise, 3) for count, noise in interpolated({0: 0.0, 40: 0.01, 80: 0.1}).items()}
    {0: 0.0, 40: 0.01, 50: 0.018, 60: 0.032, 70: 0.056, 80: 0.1}
    """
    found = dict[int, float]()
    for (low, below), (high, above) in pairwise(noises.items()):
        found[low] = below
        for part in range(1, _BETWEEN if below and above else 1):
            found[low + (high - low) * part // _BETWEEN] = below ** (1 - part / _BETWEEN) * above ** (part / _BETWEEN)
    return found | dict(noises)


def of_least_noise(entries: Mapping[str, int], noises: Mapping[str, Mapping[int, float]], total: int) -> dict[str, int] | None:
    """Return the zeros of each weight that sum to `total`, of least summed noise; None: there are none.

    What is left when each has a count of those measured goes back to the weight whose noise falls most by it.

    Args:
        entries: how many each weight has.
        noises: of each weight, by its zeros.
        total: the zeros of all, no fewer than those of the smallest counts.
    """
    options = {name: [(entries[name] - count, noise) for count, noise in of.items()] for name, of in noises.items()}
    found = allocate(list(options.values()), sum(entries.values()) - total)
    if found is None:
        return None
    kept = {name: options[name][position][0] for name, position in zip(options, found.choice, strict=True)}
    back = sum(entries.values()) - total - found.cost
    for name in sorted(options, key=lambda name: -_gain(options[name], kept[name])):
        given = min(back, max(cost for cost, _ in options[name]) - kept[name])
        kept[name], back = kept[name] + given, back - given
    return {name: entries[name] - kept[name] for name in entries}


def _gain(options: list[tuple[int, float]], kept: int) -> float:
    """Return by how much the noise falls for each weight that stays beyond those kept."""
    here = dict(options)[kept]
    return max(((here - noise) / (cost - kept) for cost, noise in options if cost > kept), default=0.0)


def _counts(entries: int, held: int, sparsity: float) -> list[int]:
    """Return the counts of zeros to measure, by rising count; those that are held make no noise and are the first."""
    stay = entries - count_of(entries, sparsity)
    wanted = {entries - max(1, min(entries, round(stay * _FINER**step))) for step in _STEPS}
    return sorted({held, *(count for count in wanted if count > held)})


@torch.no_grad()
def _noises(
    program: Program, chosen: list[Weight], counts: Mapping[str, list[int]], pruner: Pruner, inputs: Tensor, others: Tensor
) -> dict[str, dict[int, float]]:
    """Return the noise of the output when one weight alone has so many zeros, by weight and zeros.

    Args:
        program: as it stands.
        chosen: the weights.
        counts: of zeros, the first of which are there already.
        pruner: prunes a weight.
        inputs: to measure on.
        others: to prune by.
    """
    output, found = run(program, inputs), dict[str, dict[int, float]]()
    with bar("sensitivity", 0, len(chosen)) as tell:
        for (node, values), (_, beside) in zip(stepwise(program, (inputs,)), stepwise(program, (others,)), strict=True):
            for weight in [each for each in chosen if each.readers[0] is node]:
                pruned, (first, *more) = pruner(weight, beside), counts[weight.name]
                changes = {count: in_place_of(weight, pruned(count)) for count in more}
                noises = {count: relative_error(run_on(program, node, values, change), output) for count, change in changes.items()}
                found[weight.name] = {first: 0.0, **noises}
                tell(len(found), weight.name)
    return {weight.name: found[weight.name] for weight in chosen}
