"""Entropy-penalized training: the network learns weights that an entropy coder can say in few bits.

Source: D. Oktay, J. Ballé, S. Singh, A. Shrivastava, "Scalable Model Compression by Entropy Penalized Reparameterization", ICLR 2020,
eq. 2: the loss has a term for the bits of the rounded weights, and the gradient passes rounding unchanged. There a distribution is learned
for each layer and stored; here it follows from the weights' own rows and columns, as the contexts of the coder of `.lac` files do, and
nothing is stored. So whole rows and columns fall silent where the loss does not need them.
"""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from laconic import train
from laconic.context import Context
from laconic.errors import LaconicError
from laconic.numeric.entropy import adaptive_bits
from laconic.program import Program, Uniform, Weight, bake, read, represent, weights
from laconic.program.fold import absorb_statistics, assign, bias_name
from laconic.program.represent import representations, stored_tensor
from laconic.program.unquantized import check_unquantized
from laconic.quantize.grids import KINDS
from laconic.recover import taught
from laconic.step import Patterns, step

_BITS = 8  # of a code before the entropy coder
_OF_NORMS = 1 / 32  # distance of levels of gains and offsets of norms, in what is usual for them


@step
class EntropyPenalized(train.Training):
    """Train with rounded weights under a price for each bit that they take in a `.lac` file.

    Smaller by far in a `.lac` file, most of all where training is long; not faster.
    """

    price: Annotated[float, Field(gt=0)] = 1e-6  # what a bit of the file adds to the loss
    spacing: Annotated[float, Field(gt=0)] = (
        1.0  # distance of levels in standard deviations of each weight; the nearest power of 2 is taken
    )
    norms: Literal["keep", "fold"] = (
        "keep"  # fold: in the end, statistics into gains and offsets, and these onto levels; then nothing can train it any more
    )
    temperature: Annotated[float, Field(gt=0)] = 4.0  # of the float network's answers
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.0  # weight of the float network's answers; the labels have 1 - alpha
    include: Patterns = ()  # name patterns of layers to train so; empty: all
    exclude: Patterns = ()  # name patterns of layers to leave in float
    epochs: Annotated[int, Field(ge=1)] = 60
    learning_rate: Annotated[float, Field(gt=0)] = 0.002
    optimizer: Literal["sgd", "adamw"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    trains: ClassVar[bool] = True
    forms: ClassVar[frozenset[str]] = frozenset({f"int{_BITS}"})

    def __call__(self, program: Program, context: Context) -> Program:
        """Put the weights and their biases on grids and train in place."""
        chosen = weights(program, self.include, self.exclude, (*KINDS, "embedding"))
        check_unquantized(program, chosen)
        steps = {weight.name: _step(weight, self.spacing) for weight in chosen}
        biases = {name: steps[weight.name] for weight in chosen for name in _biases(program, weight)}
        grids = [_grid(size) for size in (steps | biases).values()]
        for name, grid in zip(steps | biases, grids, strict=True):
            represent(program, name, grid)
        fitted = context.fit(program, self, self._loss(context, steps | biases), "training for few bits")
        context.note(f"{fitted.epochs} epochs" + (f", validation score {fitted.score:.4f}" if fitted.score is not None else ""))
        for name, size in steps.items():
            context.note(_told(name, read(program, name).detach() / size))
        for grid in grids:
            grid.scale.requires_grad_(True)
        for name in biases:
            bake(program, name)
        if self.norms == "fold":
            context.note(f"{_fold_norms(program)} gains and offsets of norms on levels")
        return program

    def _loss(self, context: Context, steps: dict[str, float]) -> train.Loss:
        """Return the loss of the answers plus the price of the bits."""
        answers = taught(context, self.temperature, self.alpha)

        def penalized(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
            bits = torch.stack([adaptive_bits(stored_tensor(model, name).float() / size) for name, size in steps.items()])
            return answers(model, inputs, labels) + self.price * bits.sum()

        penalized.__dict__.update(answers.__dict__)  # a checkpoint goes with its teacher
        return penalized


def _step(weight: Weight, spacing: float) -> float:
    """Return the power of 2 nearest to so many standard deviations of a weight: multiples of it are exact in any floating-point format."""
    spread = float(weight.value.float().std(correction=0))
    if not 0 < spread < math.inf:
        raise LaconicError(f"{weight.name!r} has a standard deviation of {spread:g}: there is nothing to train; exclude it")
    return _power_of_2(spacing * spread)


def _power_of_2(size: float) -> float:
    return float(2.0 ** round(math.log2(size)))


def _grid(size: float) -> Uniform:
    """Return a grid that stays as it is in training, which could make no more of another: weights may grow instead."""
    grid = Uniform(torch.tensor(size), None, _BITS, True, None, narrow=True)
    grid.scale.requires_grad_(False)
    return grid


@torch.no_grad()
def _fold_norms(program: Program) -> int:
    """Leave of each batch norm a gain and an offset, multiples of a power of 2; returns how many tensors these are."""
    names = absorb_statistics(program)
    for name in names:
        value = read(program, name).detach()
        size = _OF_NORMS * _usual(value.float().abs())
        if size > 0:
            level = _power_of_2(size)
            assign(program, name, (value / level).round() * level)
    return len(names)


def _usual(sizes: Tensor) -> float:
    """Return the median of those that are not 0: gains of channels that hardly vary are many times as large as those that matter."""
    sizes = sizes[sizes > 0]
    return float(sizes.median()) if sizes.numel() else 0.0


def _biases(program: Program, weight: Weight) -> list[str]:
    """Return the names of the plain biases that are added behind a weight and nowhere else."""
    if weight.kind not in KINDS:
        return []
    names = {name for reader in weight.readers if (name := bias_name(reader))}
    used = [str(node.target) for node in program.graph.nodes if node.op == "get_attr" for _ in node.users]
    return sorted(name for name in names if used.count(name) == 1 and not representations(program, name))


def _told(name: str, multiples: Tensor) -> str:
    nonzero, bits = float((multiples != 0).float().mean()), float(adaptive_bits(multiples)) / multiples.numel()
    return f"{name}: {nonzero:.2%} of {multiples.numel()} weights are not zero, about {bits:.3f} bits each"
