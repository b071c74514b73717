"""Static post-training quantization to 8-bit integers: weights per channel, activations per tensor, ranges from calibration inputs.

Source: B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018;
R. Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A whitepaper", arXiv:1806.08342, section 3
(per-channel weights).
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, fx

from laconic.context import Context
from laconic.errors import NotApplicableError
from laconic.numeric.ranges import Histogram, mean_square_range, percentile_range
from laconic.numeric.rounding import asymmetric_grid, mean_square_scale, per_channel, symmetric_scale
from laconic.program import Program, Uniform, Weight, clone, fold_batch_norm, represent, represent_edge, tidy, weights
from laconic.program.fold import bias_of
from laconic.program.observe import observe
from laconic.program.represent import edges, representations, share_edge
from laconic.quantize.correct import correct_biases, output_means
from laconic.quantize.placement import quantized_points
from laconic.quantize.unquantized import check_unquantized
from laconic.step import Patterns, step

_BINS = 2048
_CORRECTION_BYTES = 256 * 2**20  # of the largest activation while biases are corrected


@step
class Static:
    """Quantize weights and activations to 8-bit integers with ranges set on calibration inputs; folds batch norm first.

    Smaller (a quarter of the bytes) and faster (integer kernels), without training.
    """

    ranges: Literal["min-max", "percentile", "mean-square"] = "mean-square"  # of activations
    weight_ranges: Literal["min-max", "mean-square"] = "min-max"
    percentile: Annotated[float, Field(gt=0.5, lt=1)] = 0.9999  # share of values inside the range; only for ranges: percentile
    bias_correction: bool = True
    bits: Literal[8] = 8
    include: Patterns = ()  # name patterns of layers to quantize; empty: all
    exclude: Patterns = ()  # name patterns of layers to leave in float

    forms: ClassVar[frozenset[str]] = frozenset({"int8", "uint8"})

    def __call__(self, program: Program, context: Context) -> Program:
        """Register quantizers on weights and edges, then correct the biases."""
        folded = fold_batch_norm(program)
        chosen = [weight for weight in weights(program, self.include, self.exclude) if weight.kind in _KINDS]
        if not chosen:
            raise NotApplicableError("quantize.Static found no convolution or linear layer")
        if edges(program):
            raise NotApplicableError("this network's activations are quantized already")
        check_unquantized(program, chosen)
        original = clone(program)
        for weight in chosen:
            represent(program, weight.name, self._weight_grid(weight))
        points = quantized_points(program, chosen)
        for node, grid in self._activation_grids(program, context, list(points)).items():
            edge = represent_edge(program, node, grid)
            for later in points[node]:
                share_edge(program, later, edge)
        tidy(program)
        for weight in chosen:
            _make_room_for_bias(program, weight)
        context.note(f"{len(chosen)} weights and {len(points)} activations at {self.bits} bits; {len(folded)} batch norms folded")
        if self.bias_correction:
            self._correct(program, original, chosen, context)
        return program

    def _weight_grid(self, weight: Weight) -> Uniform:
        rows = per_channel(weight.value, weight.axis)
        largest = rows.abs().amax(1)
        scale = symmetric_scale(largest, self.bits) if self.weight_ranges == "min-max" else mean_square_scale(rows, self.bits)
        return Uniform(scale, torch.zeros_like(scale), self.bits, signed=True, axis=weight.axis)

    def _activation_grids(self, program: Program, context: Context, nodes: list[fx.Node]) -> dict[fx.Node, Uniform]:
        histograms = histograms_of(program, nodes, [(inputs,) for inputs in context.calibration()], needs_counts=self.ranges != "min-max")
        grids = {}
        for node, histogram in histograms.items():
            low, high = (torch.tensor(limit) for limit in self._range(histogram))
            grids[node] = Uniform(*asymmetric_grid(low, high, self.bits), self.bits, signed=False)
        return grids

    def _range(self, histogram: Histogram) -> tuple[float, float]:
        match self.ranges:
            case "min-max":
                return histogram.low, histogram.high
            case "percentile":
                return percentile_range(histogram, self.percentile)
            case "mean-square":
                return mean_square_range(histogram, self.bits)

    def _correct(self, program: Program, original: Program, chosen: list[Weight], context: Context) -> None:
        layers = {node.name: (-1 if weight.kind == "linear" else 1) for weight in chosen for node in weight.readers}
        inputs = _within_memory(program, torch.cat(list(context.calibration())))
        wanted = output_means(original, layers, [(part,) for part in inputs.split(32) if len(part) == min(32, len(inputs))])
        largest = correct_biases(program, layers, wanted, (inputs[: len(inputs) // 32 * 32 or len(inputs)],))
        context.note(f"biases corrected on {len(inputs)} calibration inputs, by at most {largest:.3g}")


def _make_room_for_bias(program: Program, weight: Weight) -> None:
    """Widen the scales of channels with tiny weights beside a large bias, which would not fit 32 bits at the scale of the products."""
    grid = representations(program, weight.name)[-1]
    for reader in weight.readers:
        bias, source = bias_of(program, reader), edges(program).get(reader.all_input_nodes[0])
        if bias is not None and isinstance(source, Uniform) and isinstance(grid, Uniform):
            least = bias.abs() / (source.step * 2**30)
            grid.scale.data = torch.maximum(grid.scale.data, least.detach())


_KINDS = ("conv1d", "conv2d", "conv3d", "linear")


def histograms_of(
    program: Program, nodes: list[fx.Node], inputs: list[tuple[Tensor, ...]], needs_counts: bool = True
) -> dict[fx.Node, Histogram]:
    """Return the range of the values at each node over `inputs` and, in a second run, how they are spread in it."""
    limits: dict[fx.Node, tuple[float, float]] = {}

    def widen(node: fx.Node, value: Tensor) -> None:
        low, high = (float(limit) for limit in torch.aminmax(value.float()))
        before = limits.get(node, (low, high))
        limits[node] = (min(low, before[0]), max(high, before[1]))

    observe(program, inputs, nodes, widen)
    histograms = {node: Histogram(low, high, torch.zeros(_BINS)) for node, (low, high) in limits.items()}
    if needs_counts:
        observe(program, inputs, nodes, lambda node, value: histograms[node].add(value))
    return histograms


def _within_memory(program: Program, inputs: Tensor) -> Tensor:
    """Return as many of the inputs as keep the largest activation under the limit, at least one."""
    largest = 1
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and node.op in ("call_function", "call_module"):
            sizes = [size for size in value.shape[1:] if isinstance(size, int)]
            largest = max(largest, 4 * int(torch.Size(sizes).numel()))
    return inputs[: max(1, _CORRECTION_BYTES // largest)]
