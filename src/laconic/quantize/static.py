"""Static post-training quantization to integers of 2 to 8 bits, with the ranges of activations from calibration inputs.

Source: B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018;
R. Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A whitepaper", arXiv:1806.08342, section 3
(per-channel weights).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, fx

from laconic.context import Context
from laconic.errors import NotApplicableError
from laconic.numeric.rounding import mean_square_scale, per_channel, symmetric_scale
from laconic.program import Program, Uniform, Weight, clone, fold_batch_norm, read, represent, represent_edge, tidy, weights
from laconic.program.fold import bias_of
from laconic.program.represent import edges, representations, share_edge
from laconic.quantize.calibrate import Ranges, activation_grids, calibration_inputs
from laconic.quantize.correct import correct_biases, output_means
from laconic.quantize.equalize import equalize
from laconic.quantize.learned_rounding import round_layers
from laconic.quantize.placement import Sites, end_kernels, points_read, quantized_points
from laconic.quantize.unquantized import check_unquantized
from laconic.step import Patterns, step, step_name

Bits: TypeAlias = Annotated[int, Field(ge=2, le=8)]

_KINDS = ("conv1d", "conv2d", "conv3d", "linear")
_CORRECTION_BYTES = 256 * 2**20  # of the largest activation while biases are corrected


class Widths(NamedTuple):
    """How many bits every quantized weight, by its name, and every quantized value gets."""

    weights: Mapping[str, int]
    activations: Mapping[fx.Node, int]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Calibrated(ABC):
    """The procedure of post-training quantization, whatever the widths, and its settings."""

    weight_granularity: Literal["tensor", "channel"] = "channel"  # one scale per tensor of weights, or per output channel
    ranges: Ranges = "mean-square"  # of activations
    weight_ranges: Literal["min-max", "mean-square"] = "min-max"
    percentile: Annotated[float, Field(gt=0.5, lt=1)] = 0.9999  # share of values inside the range; only for ranges: percentile
    bias_correction: bool = True
    equalization: bool = False  # rescale channels between layers, so that each uses its grid evenly
    rounding: Literal["nearest", "layer"] = "nearest"  # of weights: to the nearest level, or learned layer by layer
    iterations: Annotated[int, Field(ge=1)] = 300  # of learning, per layer
    include: Patterns = ()  # name patterns of layers to quantize; empty: all
    exclude: Patterns = ()  # name patterns of layers to leave in float

    @abstractmethod
    def _widths(self, sites: Sites, batches: list[Tensor], context: Context) -> Widths:
        """Return the widths of everything that is quantized, given the float program and the calibration inputs."""

    def __call__(self, program: Program, context: Context) -> Program:
        """Register quantizers on weights and edges, then correct the biases."""
        folded = fold_batch_norm(program)
        chosen = [weight for weight in weights(program, self.include, self.exclude) if weight.kind in _KINDS]
        if not chosen:
            raise NotApplicableError(f"{step_name(self)} found no convolution or linear layer")
        if edges(program):
            raise NotApplicableError("this network's activations are quantized already")
        check_unquantized(program, chosen)
        batches = calibration_inputs(program, context)
        if self.equalization:
            context.note(f"{len(equalize(program, batches))} weights equalized")
            chosen = [replace(weight, value=read(program, weight.name).detach()) for weight in chosen]
        original = clone(program)
        self._quantize(program, chosen, batches, context)
        context.note(f"{len(folded)} batch norms folded")
        if self.rounding != "nearest":
            self._learn(program, original, chosen, context)
        if self.bias_correction:
            self._correct(program, original, chosen, batches, context)
        return program

    def _quantize(self, program: Program, chosen: list[Weight], batches: list[Tensor], context: Context) -> None:
        """Put every chosen weight and the activations around them on a grid."""
        points = quantized_points(program, chosen)
        bits = self._widths(Sites(program, tuple(chosen), points), batches, context)
        grids = activation_grids(program, batches, bits.activations, self.ranges, self.percentile)
        for weight in chosen:
            represent(program, weight.name, self._weight_grid(weight, bits.weights[weight.name]))
        for node, grid in grids.items():
            edge = represent_edge(program, node, grid)
            for later in points[node]:
                share_edge(program, later, edge)
        tidy(program)
        for weight in chosen:
            _make_room_for_bias(program, weight)
        widths = [form.bits for weight in chosen for form in representations(program, weight.name) if isinstance(form, Uniform)]
        context.note(f"{_counted(widths, 'weights')}, {_counted(list(bits.activations.values()), 'activations')}")

    def _weight_grid(self, weight: Weight, bits: int) -> Uniform:
        axis = weight.axis if self.weight_granularity == "channel" else None
        rows = per_channel(weight.value, axis)
        largest = rows.abs().amax(1)
        scale = symmetric_scale(largest, bits) if self.weight_ranges == "min-max" else mean_square_scale(rows, bits)
        scale = scale if axis is not None else scale[0]
        return Uniform(scale, torch.zeros_like(scale), bits, signed=True, axis=axis)

    def _learn(self, program: Program, original: Program, chosen: list[Weight], context: Context) -> None:
        left = round_layers(program, original, chosen, context, self.iterations, self.bias_correction)
        context.note(f"rounding learned for {len(chosen) - len(left)} weights" + (f", not for {', '.join(left)}" if left else ""))

    def _correct(self, program: Program, original: Program, chosen: list[Weight], batches: list[Tensor], context: Context) -> None:
        layers = {node.name: (-1 if weight.kind == "linear" else 1) for weight in chosen for node in weight.readers}
        inputs = _within_memory(program, torch.cat(batches))
        wanted = output_means(original, layers, [(part,) for part in inputs.split(32) if len(part) == min(32, len(inputs))])
        largest = correct_biases(program, layers, wanted, (inputs[: len(inputs) // 32 * 32 or len(inputs)],))
        context.note(f"biases corrected on {len(inputs)} calibration inputs, by at most {largest:.3g}")


@step
class Static(Calibrated):
    """Quantize weights and activations to integers with ranges set on calibration inputs; folds batch norm first.

    Smaller (at 8 bits a quarter of the bytes) and faster (integer kernels), without training.
    """

    weight_bits: Bits = 8
    activation_bits: Bits = 8
    ends_bits: Bits = 8  # at least so many for the layers that read the network's input or make its output, and for what they read

    @property
    def forms(self) -> frozenset[str]:
        """What the runtime must execute."""
        widths = {("int", self.weight_bits), ("uint", self.activation_bits)}
        return frozenset(f"{kind}{max(bits, least)}" for kind, bits in widths for least in (bits, self.ends_bits))

    def _widths(self, sites: Sites, batches: list[Tensor], context: Context) -> Widths:
        ends = end_kernels(sites.program)
        wide = set(points_read(sites.points, [kernel for kernel in sites.kernels if kernel in ends]).values())
        weights = {each.name: max(self.weight_bits, self.ends_bits if ends.intersection(each.readers) else 0) for each in sites.weights}
        return Widths(weights, {node: max(self.activation_bits, self.ends_bits if node in wide else 0) for node in sites.points})


def _counted(widths: list[int], what: str) -> str:
    """Say how many there are of each width.

    >>> _counted([8, 4, 4, 8], "weights")
    '2 weights at 4 bits, 2 at 8'
    """
    counts = [(widths.count(bits), bits) for bits in sorted(set(widths))]
    return ", ".join(f"{count} {what} at {bits} bits" if i == 0 else f"{count} at {bits}" for i, (count, bits) in enumerate(counts))


def _make_room_for_bias(program: Program, weight: Weight) -> None:
    """Widen the scales of channels with tiny weights beside a large bias, which would not fit 32 bits at the scale of the products."""
    grid = representations(program, weight.name)[-1]
    for reader in weight.readers:
        bias, source = bias_of(program, reader), edges(program).get(reader.all_input_nodes[0])
        if bias is not None and isinstance(source, Uniform) and isinstance(grid, Uniform):
            least = (bias.abs() / (source.step * 2**30)).detach()
            grid.scale.data = torch.maximum(grid.scale.data, least if grid.axis is not None else least.amax())


def _within_memory(program: Program, inputs: Tensor) -> Tensor:
    """Return as many of the inputs as keep the largest activation under the limit, at least one."""
    largest = 1
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and node.op in ("call_function", "call_module"):
            sizes = [size for size in value.shape[1:] if isinstance(size, int)]
            largest = max(largest, 4 * int(torch.Size(sizes).numel()))
    return inputs[: max(1, _CORRECTION_BYTES // largest)]
