"""What each width of each weight and activation costs at the output, measured by quantizing one at a time.

Source: Y. Zhou, S.-M. Moosavi-Dezfooli, N.-M. Cheung, P. Frossard, "Adaptive Quantization for Deep Neural Network", AAAI 2018: the noise of
single layers arrives at the last values nearly uncorrelated, so that its squares add up there. Here it is measured at every width, in
place of one measurement and a law for the others, at the logits, and with the weights rounded as well as they will be.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from laconic.program.noise import in_place_of, relative_error, run, run_on
from laconic.program.observe import Changes, stepwise
from laconic.quantize.candidates import Candidates
from laconic.quantize.placement import Sites, points_read
from laconic.train.progress import bar


class Allotment(NamedTuple):
    """How many bits every quantized weight, by its name, and every quantized value gets."""

    weights: Mapping[str, int]
    activations: Mapping[fx.Node, int]


class Losses(NamedTuple):
    """What each width costs: of every weight, by its name, and of the values of every quantized node."""

    weights: dict[str, dict[int, float]]
    activations: dict[fx.Node, dict[int, float]]


@torch.no_grad()
def output_noise(candidates: Candidates, inputs: Tensor, others: Tensor) -> Losses:
    """Return the squared error of the output, as a share of its square, when one thing alone is quantized.

    Args:
        candidates: things and widths.
        inputs: calibration inputs to measure on, (examples, ...).
        others: those that weights are rounded by; on the same ones a layer of many inputs would seem to need few bits.
    """
    sites, losses, previous = candidates.sites, Losses({}, {}), None
    output, restoring = _float_run(candidates, inputs)
    readers = _readers(sites)

    def noise(changes: Changes, kernels: Iterable[fx.Node], node: fx.Node, values: dict[fx.Node, Any]) -> float:
        restored = {kernel: restoring[kernel] for kernel in kernels if kernel in restoring}
        return relative_error(run_on(sites.program, node, values, _one_after_the_other(restored, changes)), output)

    with bar("sensitivity", 0, len(sites.weights) + len(sites.points)) as tell:
        for (node, values), (_, beside) in zip(stepwise(sites.program, (inputs,)), stepwise(sites.program, (others,)), strict=True):
            if previous in readers:
                grids = {bits: candidates.value_grid(previous, bits) for bits in candidates.activation_bits}
                losses.activations[previous] = {
                    bits: noise({previous: grid}, readers[previous], node, values) for bits, grid in grids.items()
                }
            for weight in [each for each in sites.weights if each.readers[0] is node]:
                rounded = candidates.rounded(weight, beside)
                losses.weights[weight.name] = {
                    bits: noise(in_place_of(weight, rounded(bits)), weight.readers, node, values) for bits in candidates.weight_bits
                }
            previous = node
            tell(len(losses.weights) + len(losses.activations), node.name)
    return losses


@torch.no_grad()
def outputs_together(candidates: Candidates, widths: Allotment, inputs: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float output on `inputs`, and the output with everything rounded at once, each to its width; see `output_noise`."""
    sites = candidates.sites
    output, changes = _float_run(candidates, inputs)
    for node, beside in stepwise(sites.program, (others,)):
        for weight in [each for each in sites.weights if each.readers[0] is node]:
            rounded = candidates.rounded(weight, beside)(widths.weights[weight.name])
            changes = {**changes, **in_place_of(weight, rounded)}
    grids = {node: candidates.value_grid(node, bits) for node, bits in widths.activations.items()}
    return output, run(sites.program, inputs, _one_after_the_other(changes, grids))


def _float_run(candidates: Candidates, inputs: Tensor) -> tuple[Tensor, Changes]:
    """Return the output of the float program and, if wanted, what gives each layer its mean output per channel back."""
    restoring: dict[fx.Node, Callable[[Tensor], Tensor]] = {}

    def look(kernel: fx.Node, axis: int) -> Callable[[Tensor], Tensor]:
        def remember(value: Tensor) -> Tensor:
            means = _means(value, axis)
            restoring[kernel] = lambda later: later + (means - _means(later, axis))
            return value

        return remember

    axes = {reader: -1 if weight.kind == "linear" else 1 for weight in candidates.sites.weights for reader in weight.readers}
    lookers = {kernel: look(kernel, axis) for kernel, axis in axes.items()} if candidates.corrected else {}
    return run(candidates.sites.program, inputs, lookers), restoring


def _means(value: Tensor, axis: int) -> Tensor:
    """Return the mean for each index along `axis`, shaped to be added to `value`."""
    return value.mean([each for each in range(value.ndim) if each != axis % value.ndim], keepdim=True)


def _readers(sites: Sites) -> dict[fx.Node, list[fx.Node]]:
    """Return the layers that read the values of each quantized node."""
    readers: dict[fx.Node, list[fx.Node]] = {point: [] for point in sites.points}
    for kernel, point in points_read(sites.points, sites.kernels).items():
        readers[point].append(kernel)
    return readers


def _one_after_the_other(first: Changes, then: Changes) -> Changes:
    def both(node: fx.Node) -> Callable[[Tensor], Tensor]:
        return lambda value: then[node](first[node](value))

    return {**first, **then, **{node: both(node) for node in first.keys() & then.keys()}}
