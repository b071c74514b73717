"""Quantization during training: the network learns weights that are right after rounding, and the steps that they are rounded to.

Source: S. Esser et al., "Learned Step Size Quantization", ICLR 2020 (steps of weights and activations; with them the clipping points
of activations, as in J. Choi et al., "PACT", arXiv:1805.06085); M. Rastegari et al., "XNOR-Net", ECCV 2016, and S. Zhou et al.,
"DoReFa-Net", arXiv:1606.06160 (weights of one bit: a sign and a scale for each channel, the gradient straight through the sign);
G. Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531 (the loss).
"""

from typing import Annotated, ClassVar, Literal, TypeAlias

import torch
from pydantic import Field

from laconic import train
from laconic.context import Context, calibration_inputs
from laconic.errors import NotApplicableError
from laconic.numeric.codebook import binary_scale
from laconic.numeric.rounding import mean_square_scale, per_channel
from laconic.program import Codebook, Program, Uniform, Weight, fold_batch_norm, weights
from laconic.program.represent import edges
from laconic.program.scaled import Scaled
from laconic.program.unquantized import check_unquantized
from laconic.quantize.grids import KINDS, even_widths, make_room_for_bias, put_grids, round_bias
from laconic.quantize.static import counted
from laconic.recover import taught
from laconic.step import Patterns, step

_TABLES = {1: (torch.tensor([-1.0, 1.0]), "binary"), 2: (torch.tensor([-3.0, -1.0, 1.0, 3.0]) / 3, "even int2")}

Width: TypeAlias = Annotated[int, Field(ge=1, le=8)]


@step
class Training(train.Training):
    """Train with quantized weights and activations, on the labels and on the answers of the float network.

    Starts from ranges set on calibration inputs, or from what `quantize.Static` left. Smaller and faster as integers are; keeps more
    accuracy than rounding afterwards, most of all below 8 bits.
    """

    weight_bits: Width | None = None  # 1: a sign; none: as they are quantized already, or else 4
    activation_bits: Width | None = None  # none: as they are quantized already, or else 4
    ends_bits: Width = 8  # at least so many for the layers that read the network's input or make its output, and for what they read
    sum_bits: Width = 8  # at least so many for activations that sums and poolings read, as in residual networks
    wide: Patterns = ()  # name patterns of layers that have at least `ends_bits` too
    temperature: Annotated[float, Field(gt=0)] = 4.0  # of the float network's answers
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9  # weight of the float network's answers; the labels have 1 - alpha
    include: Patterns = ()  # name patterns of layers to quantize; empty: all
    exclude: Patterns = ()  # name patterns of layers to leave in float
    epochs: Annotated[int, Field(ge=1)] = 15
    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    optimizer: Literal["sgd", "adamw"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    trains: ClassVar[bool] = True

    @property
    def forms(self) -> frozenset[str]:
        """What the runtime must execute."""
        weights, activations = self.weight_bits or 4, self.activation_bits or 4
        widths = {max(weights, least) for least in (weights, self.ends_bits)}
        others = {max(activations, least) for least in (activations, self.ends_bits, self.sum_bits)}
        return frozenset([f"int{bits + (bits <= 2)}" for bits in widths] + [f"uint{bits}" for bits in others])

    def __call__(self, program: Program, context: Context) -> Program:
        """Quantize where that has not been done, train in place, and fold batch norm."""
        if edges(program):
            self._check_widths_are_open()
        else:
            self._quantize(program, context)
        fitted = context.fit(program, self, taught(context, self.temperature, self.alpha), "training with quantizers")
        context.note(f"{fitted.epochs} epochs" + (f", validation score {fitted.score:.4f}" if fitted.score is not None else ""))
        folded = fold_batch_norm(program)
        for weight in weights(program):
            make_room_for_bias(program, weight)
            round_bias(program, weight)
        program.recompile()
        context.note(f"{len(folded)} batch norms folded")
        return program

    def _check_widths_are_open(self) -> None:
        if self.weight_bits is not None or self.activation_bits is not None:
            raise NotApplicableError(
                "the network is quantized already: leave weight_bits and activation_bits out to train it so, or leave that step out"
            )

    def _quantize(self, program: Program, context: Context) -> None:
        """Put every chosen weight and the activations around them on a grid."""
        chosen = [weight for weight in weights(program, self.include, self.exclude) if weight.kind in KINDS]
        if not chosen:
            raise NotApplicableError("quantize.Training found no convolution or linear layer")
        check_unquantized(program, chosen)
        wide = {weight.name for weight in weights(program, self.wide)} if self.wide else set()
        widths = even_widths(program, chosen, self.weight_bits or 4, self.activation_bits or 4, self.ends_bits, self.sum_bits, wide)
        placed = put_grids(program, chosen, calibration_inputs(program, context), widths, weight_grid)
        context.note(f"{counted(list(widths.weights.values()), 'weights')}, {counted(list(placed.values()), 'activations')}")


def weight_grid(weight: Weight, bits: int) -> Scaled:
    """Return a quantizer with as many levels below 0 as above, a scale to each channel: batch norm can be folded into it later.

    Of 2 bits there are four levels, none of them 0, evenly spaced; of 1 bit two.
    """
    rows = per_channel(weight.value.detach().float(), weight.axis)
    if bits <= 2:
        magnitude = binary_scale(rows, rows != 0)
        return Codebook(magnitude if bits == 1 else 1.5 * magnitude, *_TABLES[bits], axis=weight.axis)
    return Uniform(mean_square_scale(rows, bits), None, bits, True, weight.axis, narrow=True)
