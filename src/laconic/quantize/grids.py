"""Grids on a whole network: weights on theirs, activations on those around every integer kernel, each of its own width."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from laconic.numeric.ranges import Histogram
from laconic.program import Mask, Program, Quantizer, Uniform, Weight, represent, represent_edge, tidy
from laconic.program.fold import bias_of, foldable_norms, set_bias
from laconic.program.forms import kept, quantizer_of
from laconic.program.lower import in_whole_numbers, times_finer
from laconic.program.represent import edges, representations, share_edge
from laconic.program.scaled import Scaled
from laconic.quantize.calibrate import Ranges, grid_of, histograms_of
from laconic.quantize.placement import before_padding, end_kernels, float_readers, quantized_points, readers

KINDS = ("conv1d", "conv2d", "conv3d", "linear")  # of layers that compute on integers


@dataclass(frozen=True)
class Widths:
    """How many bits the weights and the inputs of each layer have; by the weight's name."""

    weights: Mapping[str, int]
    inputs: Mapping[str, int]
    others: int = 8  # of values that no layer reads: sums, poolings and the like do


def even_widths(
    program: Program,
    chosen: list[Weight],
    weight_bits: int,
    activation_bits: int,
    ends_bits: int,
    sum_bits: int,
    wide: Collection[str] = (),
) -> Widths:
    """Return the same widths for all layers, but for the ends of the network and those named in `wide`, which have at least `ends_bits`."""
    ends = end_kernels(program)
    at_end = {weight.name for weight in chosen if weight.name in wide or ends.intersection(weight.readers)}
    return Widths(
        {weight.name: max(weight_bits, ends_bits if weight.name in at_end else 0) for weight in chosen},
        {weight.name: max(activation_bits, ends_bits if weight.name in at_end else 0) for weight in chosen},
        max(activation_bits, sum_bits),
    )


def put_grids(
    program: Program,
    chosen: list[Weight],
    batches: list[Tensor],
    widths: Widths,
    weight_grid: Callable[[Weight, int], Scaled],
    ranges: Ranges = "mean-square",
    percentile: float = 0.9999,
    histograms: Mapping[fx.Node, Histogram] | None = None,
) -> dict[fx.Node, int]:
    """Put every chosen weight and the activations around them on a grid, in place; returns the activations' widths, by the new nodes.

    A value has the width that the most demanding of its readers needs; a layer that needs less reads it through a second grid of its own.

    Args:
        program: the network; batch norms that will be folded may still be there.
        chosen: the weights.
        batches: inputs that set the ranges of activations.
        widths: of all of them.
        weight_grid: makes the quantizer of a weight of so many bits.
        ranges: how the ranges of activations are chosen.
        percentile: share of values inside a range, for `ranges="percentile"`.
        histograms: of the values of `points_of`, in place of those on the inputs.

    Raises:
        LaconicError: values that are not finite, or all zero.
    """
    points = points_of(program, chosen)
    in_float = float_readers(program, chosen, points, foldable_norms(program))
    kernels = {reader: widths.inputs[weight.name] for weight in chosen for reader in weight.readers}
    computing = {point: readers([point, *shared]) - in_float.get(point, set()) for point, shared in points.items()}
    bits = {point: max(kernels.get(reader, widths.others) for reader in computing[point]) for point in points}
    seen = histograms or histograms_of(program, list(points), [(inputs,) for inputs in batches], needs_counts=ranges != "min-max")

    def grid(point: fx.Node, width: int) -> Uniform:
        return grid_of(seen[point], width, ranges, percentile)

    for weight in chosen:
        keep = kept(representations(program, weight.name))
        represent_weight(program, weight.name, weight_grid(weight, widths.weights[weight.name]), keep)
    placed, origin = dict[fx.Node, int](), dict[fx.Node, fx.Node]()
    for point, shared in points.items():
        first = represent_edge(program, point, grid(point, bits[point]), set(point.users) - in_float.get(point, set()))
        placed[first] = bits[point]
        origin |= dict.fromkeys((first, *(share_edge(program, later, first) for later in shared)), point)
    for (edge, width), narrow in _narrower(kernels, {edge: bits[point] for edge, point in origin.items()}).items():
        placed[represent_edge(program, edge, grid(origin[edge], width), narrow)] = width
    tidy(program)
    for weight in chosen:
        make_room_for_bias(program, weight)
    return placed


def points_of(program: Program, chosen: list[Weight]) -> dict[fx.Node, list[fx.Node]]:
    """Return the nodes whose values `put_grids` quantizes, each with the later nodes that share its grid."""
    return quantized_points(program, chosen, foldable_norms(program))


def represent_weight(program: Program, name: str, quantizer: Quantizer, keep: Tensor | None) -> None:
    """Quantize a weight; entries that are held at zero, where `keep` is False, stay so on a grid without a level there too."""
    represent(program, name, quantizer)
    if keep is not None and isinstance(quantizer, Scaled) and not quantizer.holds_zero:
        represent(program, name, Mask(keep))


def _narrower(kernels: Mapping[fx.Node, int], bits: Mapping[fx.Node, int]) -> dict[tuple[fx.Node, int], list[fx.Node]]:
    """Return, by the edge and the fewer bits that are wanted of it, what reads the edge for such kernels: themselves or a padding."""
    found = dict[tuple[fx.Node, int], list[fx.Node]]()
    for kernel, width in kernels.items():
        value = kernel.all_input_nodes[0]
        edge = before_padding(value)
        if edge in bits and bits[edge] > width:
            found.setdefault((edge, width), []).append(kernel if edge is value else value)
    return found


def make_room_for_bias(program: Program, weight: Weight) -> None:
    """Widen the scales of channels with tiny weights beside a large bias, which would not fit 32 bits at the scale of the products."""
    grid = quantizer_of(representations(program, weight.name))
    if not isinstance(grid, Scaled):
        return
    for reader in weight.readers:
        bias, source = bias_of(program, reader), edges(program).get(before_padding(reader.all_input_nodes[0]))
        if bias is not None and isinstance(source, Uniform):
            least = (bias.abs() / (source.step * 2**30)).detach()
            least = least.amax() if grid.axis is None else least.reshape(-1, *[1] * (grid.scale.ndim - 1))
            grid.scale.data = torch.maximum(grid.step.detach(), least)


def round_bias(program: Program, weight: Weight) -> None:
    """Round the biases behind a quantized weight to the whole numbers that integer kernels add, in units of the scale of the products.

    In a network of few bits a code at a tie pulls others along, so that even biases that are nearly the same give other outputs: with
    this the program computes what its file does.
    """
    grid = quantizer_of(representations(program, weight.name))
    whole = None if grid is None else in_whole_numbers(grid)
    if not isinstance(whole, Uniform) or whole.group is not None:
        return
    for reader in weight.readers:
        bias, source = bias_of(program, reader), edges(program).get(before_padding(reader.all_input_nodes[0]))
        if bias is not None and isinstance(source, Uniform):
            unit = (source.step * whole.step / times_finer(whole)).detach()
            set_bias(program, reader, torch.round(bias / unit) * unit)
