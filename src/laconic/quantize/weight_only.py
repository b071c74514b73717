"""Weight-only quantization: weights in few bits, activations and arithmetic in float.

Source: R. Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: A whitepaper", arXiv:1806.08342, section
3.1 (weights alone, per channel); S. Shen et al., "Q-BERT: Hessian Based Ultra Low Precision Quantization of BERT", AAAI 2020 (per group).
Binary scales are those of M. Rastegari et al., "XNOR-Net", ECCV 2016, ternary ones of F. Li et al., "Ternary Weight Networks",
arXiv:1605.04711; NF4 is from T. Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", NeurIPS 2023.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import prod
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from laconic.context import Context, calibration_inputs
from laconic.errors import LaconicError, NotApplicableError
from laconic.numeric.codebook import binary_scale, normal_float, ternary_scale
from laconic.numeric.rounding import (
    asymmetric_grid,
    consecutive_groups,
    mean_square_grid,
    mean_square_scale,
    per_channel,
    per_group,
    symmetric_scale,
)
from laconic.program import Codebook, Half, Program, Quantizer, Uniform, Weight, clone, packed, read, weights
from laconic.program.forms import kept
from laconic.program.lower import weights_word
from laconic.program.represent import representations
from laconic.program.unquantized import check_unquantized
from laconic.quantize.activation_aware import scale_by_activations
from laconic.quantize.compensate import compensate
from laconic.quantize.grids import represent_weight
from laconic.quantize.tune_weights import tune_weights
from laconic.step import Patterns, step

_INTEGERS = {"int8": 8, "int4": 4, "int3": 3, "int2": 2}
_TABLES = {"binary": torch.tensor([-1.0, 1.0]), "ternary": torch.tensor([-1.0, 0.0, 1.0]), "nf4": normal_float()}
_HALVES = ("float16", "bfloat16")
_IN_WORDS = {"tensor": "one scale per tensor", "channel": "one scale per channel", "group": "one scale per group of {}"}


@step
class WeightOnly:
    """Keep weights in few bits and compute in float: for bytes, without training; without data too, unless rounding is by curvature.

    Smaller in Laconic's own file, where codes are packed at their width. ONNX Runtime executes integers of linear layers and embeddings
    as such, in 2, 4 or 8 bits, which is smaller and faster; other forms and layers are written dense into the `.onnx` file.
    """

    format: Literal["int8", "int4", "int3", "int2", "ternary", "binary", "float16", "bfloat16", "nf4"] = "int4"
    granularity: Literal["tensor", "channel", "group"] = "channel"  # what shares a scale; 16-bit formats have none
    group_size: Annotated[int, Field(ge=2)] = 64  # consecutive weights of a channel that share a scale; only for granularity: group
    symmetric: bool = True  # levels on both sides of 0 alike; false: from the lowest to the highest weight, for integers only
    ranges: Literal["min-max", "mean-square"] = "mean-square"  # of integers: to the extremes, or of least squared error
    rounding: Literal["nearest", "gptq"] = "nearest"  # gptq: by curvature, on calibration inputs; not of 16-bit formats
    activation_aware: bool = False  # multiply weights by how large their inputs are before rounding, where what makes these can be divided
    tuning_epochs: Annotated[int, Field(ge=0)] = 0  # of the whole network learning the float one's outputs for calibration inputs
    tuning_loss: Literal["divergence", "square"] = "divergence"  # of outputs that are logits, or of any; only for tuning_epochs
    include: Patterns = ()  # name patterns of layers to quantize; empty: all
    exclude: Patterns = ()  # name patterns of layers to leave in float

    @model_validator(mode="after")
    def _only_what_has_scales_is_compensated(self) -> Self:
        settings = {f"rounding: {self.rounding}": self.rounding != "nearest", "activation_aware": self.activation_aware}
        wants = [name for name, on in {**settings, "tuning_epochs": self.tuning_epochs > 0}.items() if on]
        if wants and self.format in _HALVES:
            raise ValueError(f"{self.format} is near enough to round to nearest; {' and '.join(wants)} goes with fewer bits")
        return self

    @model_validator(mode="after")
    def _only_integers_are_asymmetric(self) -> Self:
        if not self.symmetric and self.format not in _INTEGERS:
            raise ValueError(f"{self.format} has fixed levels on both sides of 0; symmetric: false goes with {', '.join(_INTEGERS)}")
        return self

    @property
    def forms(self) -> frozenset[str]:
        """What weights are afterwards, in the words of the runtimes."""
        word = self.format if self.symmetric else f"u{self.format}"
        group_size = self.group_size if self._grouped and self.format in (*_INTEGERS, "ternary", "binary") else None
        return frozenset({weights_word(f"grouped {word}" if self._grouped else word, group_size)})

    @property
    def _grouped(self) -> bool:
        return self.granularity == "group" and self.format not in _HALVES

    def __call__(self, program: Program, context: Context) -> Program:
        """Register a quantizer on every chosen weight."""
        chosen = weights(program, self.include, self.exclude)
        check_unquantized(program, chosen)
        if self._grouped:
            check_group_size(chosen, self.group_size)
        inputs = torch.cat(calibration_inputs(program, context)) if self._looks_at_inputs else torch.empty(0)
        if self.tuning_epochs and len(inputs) < 2:
            raise NotApplicableError(f"tuning_epochs needs 2 calibration inputs or more, one of them held out; there is {len(inputs)}")
        if self.activation_aware:
            chosen = self._scale(program, chosen, inputs, context)
        whole = clone(program) if self._looks_at_inputs else program
        before = _bytes(program, chosen)
        for weight in chosen:
            keep = kept(representations(program, weight.name))
            represent_weight(program, weight.name, self._quantizer(weight, keep), keep)
        if self.rounding == "gptq":
            left = compensate(program, whole, chosen, inputs)
            context.note(f"{len(chosen) - len(left)} weights rounded by curvature" + (f", not {', '.join(left)}" if left else ""))
        if self.tuning_epochs:
            self._tune(program, whole, inputs, context)
        context.note(f"{len(chosen)} weights as {self._words()}: {before:,} -> {_bytes(program, chosen):,} bytes packed")
        context.note("smaller in Laconic's own file; what a runtime does not execute in this form it holds dense, no smaller and no faster")
        return program

    @property
    def _looks_at_inputs(self) -> bool:
        return self.rounding == "gptq" or self.activation_aware or self.tuning_epochs > 0

    def _scale(self, program: Program, chosen: list[Weight], inputs: Tensor, context: Context) -> list[Weight]:
        """Scale the inputs of linear layers by how large they are; returns the chosen weights as they are by then."""

        def rounded(weight: Weight) -> Tensor:
            keep = kept(representations(program, weight.name))
            view: Tensor = self._quantizer(weight, keep)(weight.value).detach()
            return view if keep is None else torch.where(keep, view, 0.0)

        scaled, layers = scale_by_activations(program, chosen, inputs, rounded)
        context.note(f"weights of {scaled} of {layers} linear layers scaled by their inputs, which are divided where they are made")
        return [replace(weight, value=read(program, weight.name).detach()) for weight in chosen]

    def _tune(self, program: Program, whole: Program, inputs: Tensor, context: Context) -> None:
        before, after = tune_weights(program, whole, inputs, self.tuning_loss, self.tuning_epochs, context.generator())
        words = "divergence in nats" if self.tuning_loss == "divergence" else "share of their square"
        context.note(f"network tuned on the float outputs: {words} {before:.3g} -> {after:.3g}, on inputs held out")

    def _words(self) -> str:
        word = self.format if self.symmetric else f"asymmetric {self.format}"
        return word if self.format in _HALVES else f"{word}, {_IN_WORDS[self.granularity].format(self.group_size)}"

    def _quantizer(self, weight: Weight, keep: Tensor | None) -> Quantizer:
        if self.format in _HALVES:
            return Half(self.format)
        rows, shape = self._rows(weight.value.float(), weight.axis)
        axis = None if self.granularity == "tensor" else weight.axis
        group = consecutive_groups(_channel(weight), shape[1]) if self._grouped else None
        if self.format in _INTEGERS:
            scale, zero_point = (values.reshape(shape) for values in self._grid(rows, _INTEGERS[self.format]))
            return Uniform(scale, zero_point, _INTEGERS[self.format], self.symmetric, axis, group, narrow=self.symmetric)
        held = None if keep is None else self._rows(keep, weight.axis)[0]
        return Codebook(_scale(self.format, rows, held).reshape(shape), _TABLES[self.format], self.format, axis, group)

    def _rows(self, tensor: Tensor, axis: int) -> tuple[Tensor, tuple[int, ...]]:
        """Return the entries as rows, a scale to each, and the shape that the scales have."""
        match self.granularity:
            case "tensor":
                return per_channel(tensor, None), ()
            case "channel":
                return per_channel(tensor, axis), (tensor.shape[axis],)
            case "group":
                return per_group(tensor, axis, self.group_size), (
                    tensor.shape[axis],
                    tensor.numel() // tensor.shape[axis] // self.group_size,
                )

    def _grid(self, rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """Return scale and zero point of each row."""
        if not self.symmetric:
            return mean_square_grid(rows, bits) if self.ranges == "mean-square" else asymmetric_grid(rows.amin(1), rows.amax(1), bits)
        scale = mean_square_scale(rows, bits) if self.ranges == "mean-square" else symmetric_scale(rows.abs().amax(1), bits)
        return scale, torch.zeros_like(scale)


def _scale(format: str, rows: Tensor, keep: Tensor | None) -> Tensor:
    """Return what the levels of a table are multiplied by in each row; only where there is no level at 0 do held entries matter."""
    match format:
        case "binary":
            return binary_scale(rows, keep)
        case "ternary":
            return ternary_scale(rows)
        case _:
            return rows.abs().amax(1)


def _channel(weight: Weight) -> tuple[int, ...]:
    """Return the shape of one output channel."""
    shape = tuple(weight.value.shape)
    return (*shape[: weight.axis], *shape[weight.axis + 1 :])


def _bytes(program: Program, chosen: Iterable[Weight]) -> int:
    return sum(packed(program, weight.name).bytes for weight in chosen)


def check_group_size(chosen: Iterable[Weight], group_size: int) -> None:
    """Find weights whose channels are not whole groups.

    Raises:
        LaconicError: names them, how many entries a channel has, and the nearest sizes that divide it.
    """
    entries = {weight.name: prod(_channel(weight)) for weight in chosen}
    wrong = [f"{name!r} ({count}: {_near(count, group_size)})" for name, count in entries.items() if count % group_size]
    if wrong:
        raise LaconicError(
            f"group_size={group_size} does not divide the entries of a channel of {', '.join(wrong)}; "
            "choose one of the sizes named, or exclude these layers"
        )


def _near(count: int, group_size: int) -> str:
    """Name the divisors of `count` next to `group_size`, below and above."""
    divisors = [size for size in range(2, count + 1) if count % size == 0]
    below, above = [size for size in divisors if size < group_size], [size for size in divisors if size > group_size]
    return " or ".join(map(str, below[-1:] + above[:1])) or "none"
