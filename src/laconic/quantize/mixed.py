"""Mixed precision: bits for each layer's weights and activations, so that a budget is met with the least noise.

Source: Z. Dong et al., "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks", NeurIPS 2020, and Z. Yao et al., "HAWQ-V3:
Dyadic Neural Network Quantization", ICML 2021: the sum of what the widths of all layers cost is minimised under a bound on
size or bit operations, as an integer program. Here it is solved exactly, for weights and activations together (see `numeric.allocation`).
What a width costs is measured (see `sensitivity`) or taken from the curvature of the loss (see `curvature`).
"""

import math
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, Self, TypeAlias

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, fx

from laconic.context import Context, calibration_inputs
from laconic.measure import macs_per_node
from laconic.numeric.allocation import Allocation
from laconic.program import Program, Weight, clone, fold_batch_norm, weights
from laconic.program.noise import decibels, parted, relative_error, run
from laconic.quantize.budget import Budget, bits_budget, bytes_budget, check_choice, entries, mac_bits_budget, widths_within
from laconic.quantize.calibrate import grid_of, histograms_of
from laconic.quantize.candidates import Candidates
from laconic.quantize.curvature import divergence, loss_by_curvature
from laconic.quantize.grids import KINDS, Widths, points_of
from laconic.quantize.in_time import Timed, float_in_time
from laconic.quantize.placement import Sites, points_read
from laconic.quantize.sensitivity import Allotment, Losses, output_noise, outputs_together
from laconic.quantize.static import Bits, Calibrated, Rounding, Static
from laconic.step import step

Choice: TypeAlias = Annotated[tuple[Bits, ...], Field(min_length=1), AfterValidator(lambda widths: tuple(sorted(set(widths))))]
"""Widths to choose from."""

Share: TypeAlias = Annotated[float, Field(gt=0, lt=1)]

_AVERAGE = 4.0  # bits of a weight, where no budget is given


@step
class Mixed(Calibrated):
    """Quantize weights and activations to integers of different widths, chosen layer by layer for the least noise within a budget."""

    weight_bits: Choice = (2, 3, 4, 5, 6, 8)  # widths of weights to choose from
    activation_bits: Choice = (8,)  # widths of activations to choose from; more than one only for mac_bits, for they take no bytes
    average_bits: Annotated[float, Field(ge=2, le=8)] | None = None  # budget: of a weight, on average; 4 where no budget is given
    bytes: Annotated[int, Field(ge=1)] | None = None  # budget, in place of average_bits: packed bytes of the whole network
    mac_bits: Annotated[float, Field(ge=4, le=64)] | None = None  # budget, in place of average_bits: weight bits x activation bits per MAC
    latency: Share | None = None  # budget, in place of average_bits: share of the float network's; each layer is in 8 bits or in float
    sensitivity: Literal["noise", "curvature"] = "noise"  # what a width costs: measured at the output, or by the curvature of the loss
    examples: Annotated[int, Field(ge=1)] = 64  # calibration inputs that it is measured on
    weight_ranges: Literal["min-max", "mean-square"] = "mean-square"
    rounding: Rounding = "layer"  # of weights: to the nearest level, or learned layer by layer, or then again block by block

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.calibration == "statistics":
            raise ValueError("calibration: statistics has no inputs for what widths cost to be measured on; use quantize.Static")
        given = [name for name in ("average_bits", "bytes", "mac_bits", "latency") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of average_bits, bytes, mac_bits and latency, not {' and '.join(given)}")
        if self.latency is not None and (self.sensitivity != "noise" or self.signal_to_noise is not None):
            raise ValueError("a latency chooses what stays float by noise: leave sensitivity and signal_to_noise out")
        if self.mac_bits is None and len(self.activation_bits) > 1:
            raise ValueError("activations take no bytes: give one width of activation_bits, or a budget of mac_bits")
        if len(self.weight_bits) == len(self.activation_bits) == 1:
            raise ValueError("there is nothing to choose between one width and itself: give more weight_bits, or use quantize.Static")
        return self

    @property
    def forms(self) -> frozenset[str]:
        """What the runtime must execute, whatever is chosen."""
        if self.latency is not None:
            return frozenset({"int8", "uint8"})
        return frozenset([f"int{bits}" for bits in self.weight_bits] + [f"uint{bits}" for bits in self.activation_bits])

    def __call__(self, program: Program, context: Context) -> Program:
        """Choose the widths, quantize to them as `quantize.Static` does, and say how near the output is."""
        whole = clone(program)
        quantized = super().__call__(program, context) if self.latency is None else self._in_time(program, context)
        inputs = torch.cat(list(context.calibration()))[: self.examples]
        with torch.no_grad():
            distance = self._distance(run(clone(quantized), inputs), run(whole, inputs))
        context.note(f"in the end the output has {self._said(distance)}")
        return quantized

    def _in_time(self, program: Program, context: Context) -> Program:
        """Quantize to 8 bits what the latency needs, and leave what hurts the output most in float."""
        assert self.latency is not None
        settings: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(Calibrated)}

        def quantized(whole: tuple[str, ...], journal: Context, **quick: Any) -> Program:
            exclude = (*self.exclude, *(f"{name}.weight" for name in whole))
            return Static(**{**settings, **quick, "exclude": exclude})(clone(program), journal)

        def timed(whole: tuple[str, ...]) -> Program:
            return quantized(whole, replace(context, notes=[]), rounding="nearest", fisher=None, equalization=False, tuning_epochs=0)

        folded, latency, profiler = clone(program), context.timer(), context.profiler()
        fold_batch_norm(folded)
        losses = self._losses_in_integers(folded, context)
        in_float, in_integers = profiler(folded), profiler(timed(()))
        layers = [Timed(name, in_float.get(name, 0.0), in_integers.get(name, 0.0), loss) for name, loss in losses.items()]
        found = float_in_time(layers, self.latency, lambda whole: latency(folded, timed(whole)))
        kept = f"{', '.join(found.layers)} stay float" if found.layers else "no layer stays float"
        context.note(f"{kept}: {found.share:.3f} of the float network's time as measured while choosing, all in integers {found.least:.3f}")
        return quantized(found.layers, context)

    def _losses_in_integers(self, program: Program, context: Context) -> dict[str, float]:
        """Return what the output loses by each layer's integers alone, with those of what it reads, by the layer's name."""
        chosen = [weight for weight in weights(program, self.include, self.exclude) if weight.kind in KINDS]
        sites = Sites(program, tuple(chosen), points_of(program, chosen))
        batches = calibration_inputs(program, context)
        candidates = replace(self._candidates(sites, batches), weight_bits=(8,), activation_bits=(8,))
        losses, read = output_noise(candidates, *parted(torch.cat(batches), self.examples)), points_read(sites.points, sites.kernels)
        return {
            weight.name.removesuffix(".weight"): losses.weights[weight.name][8]
            + sum(losses.activations[read[reader]][8] for reader in weight.readers if reader in read)
            for weight in chosen
        }

    def _widths(self, program: Program, chosen: list[Weight], batches: list[Tensor], context: Context) -> Widths:
        sites = Sites(program, tuple(chosen), points_of(program, chosen))
        widths, read = self._allotted(sites, batches, context), points_read(sites.points, sites.kernels)
        inputs = {
            weight.name: max((widths.activations[read[each]] for each in weight.readers if each in read), default=8) for weight in chosen
        }
        return Widths(widths.weights, inputs, max(self.activation_bits))

    def _allotted(self, sites: Sites, batches: list[Tensor], context: Context) -> Allotment:
        """Return the widths of least summed loss within the budget."""
        budget = self._budget(sites, context)
        check_choice(budget, sites, self.weight_bits, self.activation_bits)
        candidates, (inputs, others) = self._candidates(sites, batches), parted(torch.cat(batches), self.examples)
        losses = self._losses(candidates, inputs, others, context)
        widths, found = widths_within(budget, sites, losses)
        together = self._distance(*reversed(outputs_together(candidates, widths, inputs, others)))
        context.note(_how_good(budget, found))
        context.note(f"the sum foretells {self._said(found.loss)} of the output, all together made {self._said(together)}")
        context.notes.extend(self._table(sites, losses, widths))
        return widths

    def _losses(self, candidates: Candidates, inputs: Tensor, others: Tensor, context: Context) -> Losses:
        if self.sensitivity == "noise":
            return output_noise(candidates, inputs, others)
        return loss_by_curvature(candidates, inputs, context.generator())

    def _distance(self, found: Tensor, wanted: Tensor) -> float:
        """Return how far an output is from the float network's, in the unit of the losses."""
        return relative_error(found, wanted) if self.sensitivity == "noise" else divergence(found, wanted)

    def _said(self, loss: float) -> str:
        return f"noise of {decibels(loss)}" if self.sensitivity == "noise" else f"a divergence of {loss:.3g} nats"

    def _candidates(self, sites: Sites, batches: list[Tensor]) -> Candidates:
        histograms = histograms_of(sites.program, list(sites.points), [(each,) for each in batches], self._ranges != "min-max")
        return Candidates(
            sites,
            self.weight_bits,
            self.activation_bits,
            self._weight_grid,
            lambda node, bits: grid_of(histograms[node], bits, self._ranges, self.percentile),
            learned=self.rounding != "nearest",
            corrected=self.bias_correction,
        )

    def _budget(self, sites: Sites, context: Context) -> Budget:
        if self.bytes is not None:
            return bytes_budget(sites, self.bytes, self.weight_granularity == "channel", self.bias_correction)
        if self.mac_bits is not None:
            return mac_bits_budget(sites, self.mac_bits, macs_per_node(sites.program, context.example()))
        return bits_budget(sites, _AVERAGE if self.average_bits is None else self.average_bits)

    def _table(self, sites: Sites, losses: Losses, widths: Allotment) -> list[str]:
        """Return a line for each weight, with what it reads, and for the values that no layer reads."""
        lines, read, coded = list[str](), points_read(sites.points, sites.kernels), entries(sites)

        def of_values(point: fx.Node) -> str:
            bits = widths.activations[point]
            return f"{point.name} at {bits} bits ({self._said(losses.activations[point][bits])})"

        for weight in sites.weights:
            bits = widths.weights[weight.name]
            codes = math.ceil(coded[weight.name] * bits / 8)
            line = f"{weight.name} at {bits} bits ({self._said(losses.weights[weight.name][bits])}; {codes:,} bytes)"
            points = dict.fromkeys(read[reader] for reader in weight.readers if reader in read)
            lines.append(", ".join([line, *(f"reads {of_values(point)}" for point in points)]))
        return lines + [f"no layer reads {of_values(point)}" for point in sites.points if point not in read.values()]


def _how_good(budget: Budget, found: Allocation) -> str:
    others = "no others are better" if found.gap == 0 else f"others are at most {found.gap / found.loss:.2%} better"
    return f"widths within {budget.said(budget.limit)}: {budget.said(found.cost)}; {others} by the sum of what each costs alone"
