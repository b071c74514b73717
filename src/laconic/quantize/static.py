"""Static post-training quantization to integers of 2 to 8 bits, with the ranges of activations from calibration inputs or batch norm.

Source: B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018;
R. Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A whitepaper", arXiv:1806.08342, section 3
(per-channel weights).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal, Self, TypeAlias

import torch
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, fx

from laconic.context import Context, calibration_inputs
from laconic.errors import NotApplicableError
from laconic.numeric.ranges import Histogram
from laconic.numeric.rounding import mean_square_scale, per_channel, symmetric_scale
from laconic.numeric.spread import Spread
from laconic.program import Program, Uniform, Weight, clone, fold_batch_norm, read, weights
from laconic.program.represent import edges
from laconic.program.unquantized import check_unquantized
from laconic.quantize.block_reconstruction import Blocks
from laconic.quantize.calibrate import Ranges
from laconic.quantize.correct import correct_biases, output_means
from laconic.quantize.data_free import assumed_histograms, correct_by_means, norm_spreads, value_spreads
from laconic.quantize.equalize import equalize
from laconic.quantize.fisher import Fisher
from laconic.quantize.grids import KINDS, Widths, even_widths, points_of, put_grids
from laconic.quantize.learned_rounding import round_layers
from laconic.quantize.noise import keep_in_float, outputs, signal_to_noise
from laconic.quantize.smooth import smooth
from laconic.quantize.tune_outputs import tune_outputs
from laconic.step import Patterns, step, step_name

Rounding: TypeAlias = Literal["nearest", "layer", "block"]
Bits: TypeAlias = Annotated[int, Field(ge=2, le=8)]

_CORRECTION_BYTES = 256 * 2**20  # of the largest activation while biases are corrected


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Calibrated(ABC):
    """The procedure of post-training quantization, whatever the widths, and its settings."""

    weight_granularity: Literal["tensor", "channel"] = "channel"  # one scale per tensor of weights, or per output channel
    calibration: Literal["inputs", "statistics"] = "inputs"  # what ranges and biases are set by: inputs, or batch norm without any
    input_range: tuple[float, float] | None = None  # of the network's inputs, only for calibration: statistics; none: that of stored bytes
    ranges: Ranges | None = None  # of activations; none: mean-square on inputs, min-max on statistics
    weight_ranges: Literal["min-max", "mean-square"] = "min-max"
    percentile: Annotated[float, Field(gt=0.5, lt=1)] = 0.9999  # share of values inside the range; only for ranges: percentile
    bias_correction: bool = True
    equalization: Literal["auto"] | bool = False  # rescale channels between layers to use grids evenly; auto: where measured to help
    rounding: Rounding = "nearest"  # of weights: to the nearest level, or learned layer by layer, or then again block by block
    iterations: Annotated[int, Field(ge=1)] = 300  # of learning, per layer and per block
    fisher: Fisher | None = None  # whose derivatives weigh errors, only for rounding: block; none: all weigh the same
    signal_to_noise: Annotated[float, Field(gt=0)] | None = None  # dB of the outputs to reach; activations in the way of it stay float
    smoothing: Annotated[float, Field(ge=0, le=1)] | None = None  # share of the channels' unevenness that linear layers' weights take over
    tuning_epochs: Annotated[int, Field(ge=0)] = 0  # of learning scales and biases on the network's outputs for calibration inputs
    include: Patterns = ()  # name patterns of layers to quantize; empty: all
    exclude: Patterns = ()  # name patterns of layers to leave in float

    @model_validator(mode="after")
    def _statistics_are_no_inputs(self) -> Self:
        settings = {"equalization": bool(self.equalization), f"rounding: {self.rounding}": self.rounding != "nearest"}
        settings |= {name: getattr(self, name) is not None for name in ("smoothing", "signal_to_noise")}
        wants = [name for name, on in {**settings, "tuning_epochs": self.tuning_epochs > 0}.items() if on]
        if self.calibration == "statistics" and wants:
            raise ValueError(f"{' and '.join(wants)} needs calibration inputs; calibration: statistics has none")
        if self.input_range is not None and not self.input_range[0] < self.input_range[1]:
            raise ValueError(f"input_range is the lowest and the highest number, in this order; got {list(self.input_range)}")
        if self.fisher is not None and self.rounding != "block":
            raise ValueError(f"fisher weighs the errors of blocks: it needs rounding: block; got rounding: {self.rounding}")
        return self

    @property
    def _ranges(self) -> Ranges:
        return self.ranges or ("mean-square" if self.calibration == "inputs" else "min-max")

    @abstractmethod
    def _widths(self, program: Program, chosen: list[Weight], batches: list[Tensor], context: Context) -> Widths:
        """Return the widths of everything that is quantized, given the float program and the calibration inputs."""

    def __call__(self, program: Program, context: Context) -> Program:
        """Register quantizers on weights and edges, then correct the biases."""
        norms = norm_spreads(program)
        folded = fold_batch_norm(program)
        chosen = [weight for weight in weights(program, self.include, self.exclude) if weight.kind in KINDS]
        if not chosen:
            raise NotApplicableError(f"{step_name(self)} found no convolution or linear layer")
        if edges(program):
            raise NotApplicableError("this network's activations are quantized already")
        check_unquantized(program, chosen)
        if self.calibration == "statistics":
            return self._from_statistics(program, chosen, norms, context)
        batches = calibration_inputs(program, context)
        if self.equalization is True or (self.equalization and self._equalization_helps(program, batches, context)):
            context.note(f"{len(equalize(program, batches))} weights equalized")
            chosen = [replace(weight, value=read(program, weight.name).detach()) for weight in chosen]
        if self.smoothing is not None:
            smoothed, folded_too = smooth(program, chosen, batches, self.smoothing)
            context.note(f"inputs of linear layers smoothed: {smoothed}, {folded_too} of them in the norm before")
            chosen = [replace(weight, value=read(program, weight.name).detach()) for weight in chosen]
        original = clone(program)
        self._quantize(program, chosen, batches, context)
        context.note(f"{len(folded)} batch norms folded")
        biased = chosen if self.rounding == "nearest" else self._learn(program, original, chosen, context)
        if self.signal_to_noise is not None:
            program = self._within_noise(program, original, chosen, batches, context)
        elif self.bias_correction and biased:
            self._correct(program, original, biased, batches, context)
        if self.tuning_epochs:
            self._tune(program, original, chosen, torch.cat(batches), context)
        return program

    def _equalization_helps(self, program: Program, batches: list[Tensor], context: Context) -> bool:
        """Say whether equalization adds to the signal to noise of the outputs on the calibration inputs, rounded to nearest."""
        nearest = replace(self, equalization=False, rounding="nearest", fisher=None, tuning_epochs=0, signal_to_noise=None)
        tried = [replace(nearest, equalization=on)(clone(program), replace(context, notes=[])) for on in (False, True)]
        wanted = outputs(program, batches)
        plain, equalized = (signal_to_noise(wanted, outputs(each, batches)) for each in tried)
        context.note(f"signal to noise rounded to nearest: {plain:.1f} dB, equalized {equalized:.1f} dB")
        return equalized > plain

    def _from_statistics(self, program: Program, chosen: list[Weight], norms: dict[str, Spread], context: Context) -> Program:
        """Quantize a program whose batch norms, folded by now, were `norms`; no input is looked at."""
        spreads = value_spreads(program, norms)
        limits = self.input_range or context.splits.calibration.limits
        histograms = assumed_histograms(list(points_of(program, chosen)), spreads, limits)
        means = {node: spreads[source].mean for each in chosen for node in each.readers if (source := node.all_input_nodes[0]) in spreads}
        self._quantize(program, chosen, [], context, histograms)
        context.note(f"{len(norms)} batch norms folded")
        if self.bias_correction:
            largest = correct_by_means(program, chosen, means)
            context.note(f"biases of {len(means)} layers corrected from batch norm, by at most {largest:.3g}")
        return program

    def _quantize(
        self,
        program: Program,
        chosen: list[Weight],
        batches: list[Tensor],
        context: Context,
        histograms: Mapping[fx.Node, Histogram] | None = None,
    ) -> None:
        """Put every chosen weight and the activations around them on a grid."""
        widths = self._widths(program, chosen, batches, context)
        placed = put_grids(program, chosen, batches, widths, self._weight_grid, self._ranges, self.percentile, histograms)
        context.note(f"{counted(list(widths.weights.values()), 'weights')}, {counted(list(placed.values()), 'activations')}")

    def _weight_grid(self, weight: Weight, bits: int) -> Uniform:
        axis = weight.axis if self.weight_granularity == "channel" else None
        rows = per_channel(weight.value, axis)
        largest = rows.abs().amax(1)
        scale = symmetric_scale(largest, bits) if self.weight_ranges == "min-max" else mean_square_scale(rows, bits)
        scale = scale if axis is not None else scale[0]
        return Uniform(scale, torch.zeros_like(scale), bits, signed=True, axis=axis)

    def _learn(self, program: Program, original: Program, chosen: list[Weight], context: Context) -> list[Weight]:
        """Learn the rounding; returns the weights whose layers' biases have not been learned with it."""
        names = {weight.name for weight in chosen}
        placed = [weight for weight in weights(program) if weight.name in names]
        blocks = Blocks(program, original, placed, context, self.iterations, self.fisher) if self.rounding == "block" else None
        on_the_way = blocks.learned_on_the_way if blocks else iter
        left = round_layers(program, original, chosen, context, self.iterations, self.bias_correction, on_the_way)
        context.note(f"rounding learned for {len(chosen) - len(left)} weights" + (f", not for {', '.join(left)}" if left else ""))
        if blocks is None:
            return chosen
        as_before = f", not those of {', '.join(block[0] for block in blocks.left)}" if blocks.left else ""
        context.note(f"{len(blocks.nearer)} blocks reconstructed{as_before}")
        learned = {name for block in blocks.nearer for name in block}
        return [weight for weight in chosen if weight.name not in learned]

    def _correct(self, program: Program, original: Program, chosen: list[Weight], batches: list[Tensor], context: Context) -> None:
        layers = {node.name: (-1 if weight.kind == "linear" else 1) for weight in chosen for node in weight.readers}
        inputs = _within_memory(program, torch.cat(batches))
        wanted = output_means(original, layers, [(part,) for part in inputs.split(32) if len(part) == min(32, len(inputs))])
        largest = correct_biases(program, layers, wanted, (inputs[: len(inputs) // 32 * 32 or len(inputs)],))
        context.note(f"biases corrected on {len(inputs)} calibration inputs, by at most {largest:.3g}")

    def _within_noise(self, program: Program, original: Program, chosen: list[Weight], batches: list[Tensor], context: Context) -> Program:
        """Leave activations in float until the outputs have the wanted signal to noise; biases are corrected where that adds to it."""
        wanted = outputs(original, batches)
        kept = keep_in_float(program, wanted, batches, self.signal_to_noise or 0.0)
        layers = f"of {', '.join(kept.layers)} ({kept.macs:.0%} of the multiplications)" if kept.layers else "of no layer"
        context.note(f"activations {layers} stay float: signal to noise {kept.before:.1f} -> {kept.after:.1f} dB")
        if not self.bias_correction:
            return program
        corrected = clone(program)
        self._correct(corrected, original, chosen, batches, context)
        after = signal_to_noise(wanted, outputs(corrected, batches))
        context.note(f"with corrected biases {after:.1f} dB" + ("" if after > kept.after else ": taken back"))
        return corrected if after > kept.after else program

    def _tune(self, program: Program, original: Program, chosen: list[Weight], inputs: Tensor, context: Context) -> None:
        if len(inputs) < 2:
            raise NotApplicableError("tuning_epochs needs 2 calibration inputs or more, one of them held out; there is 1")
        names = {weight.name for weight in chosen}
        found = [weight for weight in weights(program) if weight.name in names]
        before, after = tune_outputs(program, original, found, inputs, self.tuning_epochs, context.generator())
        context.note(f"scales and biases tuned on the outputs: error {before:.3g} -> {after:.3g} of their square, on inputs held out")


@step
class Static(Calibrated):
    """Quantize weights and activations to integers; ranges come from calibration inputs or batch norm, which is folded first.

    Smaller (at 8 bits a quarter of the bytes) and faster (integer kernels), without training.
    """

    weight_bits: Bits = 8
    activation_bits: Bits = 8
    ends_bits: Bits = 8  # at least so many for the layers that read the network's input or make its output, and for what they read
    sum_bits: Bits = 8  # at least so many for activations that sums and poolings read, as in residual networks

    @property
    def forms(self) -> frozenset[str]:
        """What the runtime must execute."""
        weights, activations = {self.weight_bits, self.ends_bits}, {self.activation_bits, self.ends_bits, self.sum_bits}
        least = {"int": self.weight_bits, "uint": self.activation_bits}
        named = [("int", bits) for bits in weights] + [("uint", bits) for bits in activations]
        return frozenset(f"{kind}{max(bits, least[kind])}" for kind, bits in named)

    def _widths(self, program: Program, chosen: list[Weight], batches: list[Tensor], context: Context) -> Widths:
        return even_widths(program, chosen, self.weight_bits, self.activation_bits, self.ends_bits, self.sum_bits)


def counted(widths: list[int], what: str) -> str:
    """Say how many there are of each width.

    >>> counted([8, 4, 4, 8], "weights")
    '2 weights at 4 bits, 2 at 8'
    """
    counts = [(widths.count(bits), bits) for bits in sorted(set(widths))]
    return ", ".join(f"{count} {what} at {bits} bits" if i == 0 else f"{count} at {bits}" for i, (count, bits) in enumerate(counts))


def _within_memory(program: Program, inputs: Tensor) -> Tensor:
    """Return as many of the inputs as keep the largest activation under the limit, at least one."""
    largest = 1
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and node.op in ("call_function", "call_module"):
            sizes = [size for size in value.shape[1:] if isinstance(size, int)]
            largest = max(largest, 4 * int(torch.Size(sizes).numel()))
    return inputs[: max(1, _CORRECTION_BYTES // largest)]
