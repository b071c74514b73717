"""Block reconstruction: the layers of a residual block are rounded together, so that its output comes nearest to what it was.

Source: Y. Li, R. Gong, X. Tan, Y. Yang, P. Hu, Q. Zhang, F. Yu, W. Wang, S. Gu, "BRECQ: Pushing the Limit of Post-Training Quantization
by Block Reconstruction", ICLR 2021, section 3.2 and algorithm 1: in network order, residual block by residual block and layer by layer
between them, roundings and the steps of activations are learned towards the float network's output, on inputs that come out of the
quantized blocks before; the error is weighted by the diagonal Fisher information (eq. 10) or is the mean square. Steps have the gradient
of S. Esser et al., "Learned Step Size Quantization", ICLR 2020.

Here the layers of a block are first rounded one by one, and roundings start from there; scales of weights and biases are learned with
them. Every weight is up or down all the time, and its rounding has the gradient of the relaxed one (straight-through, Y. Bengio et al.,
arXiv:1308.3432), where the paper's are in between until a regularizer pushes them aside: so all that is learned fits the weights as they
will be. A block that comes no nearer on all calibration inputs is left as layer by layer made it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from laconic.context import Context
from laconic.errors import NotApplicableError
from laconic.numeric.rounding import broadcast, levels, through
from laconic.program import Program, Uniform, Weight, read
from laconic.program.blocks import pieces
from laconic.program.observe import Piece, Stop
from laconic.quantize.correct import give_biases
from laconic.quantize.fisher import Fisher, fisher_information
from laconic.quantize.learned_rounding import relaxed, relaxed_start
from laconic.quantize.tunable import Tunable, output_sizes

_BATCH = 32
_RATE = 0.02  # of Adam, of roundings
_RELATIVE = 0.003  # rate of Adam, of scales as a share of them, of biases as a share of the outputs' root mean square
_SURE = 0.8  # how far towards its code a relaxed rounding starts


class _Rounding:
    """The codes of a weight while they are learned: each one of the two next to the weight, the present one among them."""

    def __init__(self, dense: Tensor, codes: Tensor, grid: Uniform) -> None:
        limits = levels(grid.bits, grid.signed)
        below = (dense / broadcast(grid.step.detach(), dense, grid.axis)).clamp(*limits).floor().clamp(max=limits[1] - 1)
        self._low, self._free = below.clamp(codes - 1, codes), dense != 0
        self.inner = relaxed_start(0.5 + (codes - self._low - 0.5) * _SURE).requires_grad_()

    def codes(self) -> Tensor:
        up = through((self.inner >= 0).float(), relaxed(self.inner))
        return torch.where(self._free, self._low + up, 0.0)


class _Block(Tunable):
    """A piece of a quantized program whose roundings can be learned too."""

    def __init__(self, program: Program, whole: Program, ends: tuple[str, str], chosen: list[Weight], sizes: Mapping[str, Tensor]) -> None:
        super().__init__(program, ends, chosen, sizes, _RELATIVE)
        dense = {name: read(whole, name).detach() for name in self.grids}
        self._roundings = {name: _Rounding(dense[name], self._codes[name], grid) for name, grid in self.grids.items()}
        self._inner = [rounding.inner for rounding in self._roundings.values()]

    @property
    def learned(self) -> list[Tensor]:
        """All that is learned."""
        return [*super().learned, *self._inner]

    def codes(self, weight: str) -> Tensor:
        """Return the codes of a weight as they are by now."""
        return self._roundings[weight].codes()

    def optimizer(self) -> torch.optim.Adam:
        """Return what learns the roundings too."""
        optimizer = super().optimizer()
        optimizer.add_param_group({"params": self._inner, "lr": _RATE})
        return optimizer


@dataclass(frozen=True)
class _Task:
    """What a block reads, what it is to give, and how much that matters; one for each example."""

    inputs: Tensor
    wanted: Tensor
    weights: Tensor

    def error(self, block: Piece, examples: Tensor) -> Tensor:
        """Return the weighted mean square error on some examples."""
        found: Tensor = block(self.inputs[examples])
        return ((found - self.wanted[examples]).square() * self.weights[examples]).mean()

    @torch.no_grad()
    def total(self, block: Piece) -> float:
        """Return the weighted mean square error on all examples."""
        return sum(float(self.error(block, part)) * len(part) for part in torch.arange(len(self.inputs)).split(_BATCH)) / len(self.inputs)


class Blocks:
    """The blocks of a quantized program, learned during a run of it beside the float network, each as soon as the run is through it."""

    def __init__(
        self, program: Program, whole: Program, chosen: list[Weight], context: Context, iterations: int, fisher: Fisher | None = None
    ) -> None:
        """Give every layer a bias.

        Args:
            program: quantized; its weights lie on their grids.
            whole: the network before, whose nodes have the same names.
            chosen: the quantized weights.
            context: gives calibration examples and randomness.
            iterations: per block.
            fisher: where the information that errors are weighted by comes from; None: all errors weigh the same.
        """
        layers = [reader for weight in chosen for reader in weight.readers]
        give_biases(program.eval(), layers)
        self._program, self._whole, self._chosen, self._iterations = program, whole.eval(), chosen, iterations
        self._sizes = output_sizes(program, layers, next(context.calibration(_BATCH)))
        self._weights = _Weights(whole, context, fisher)
        self._generator = context.generator()
        self._starts = {end.name: start.name for start, end in pieces(whole)}
        self.nearer: list[tuple[str, ...]] = []  # the weights of each block that came nearer to the float network
        self.left: list[tuple[str, ...]] = []  # of each that was left as it was

    def learned_on_the_way(self, stops: Iterator[Stop]) -> Iterator[Stop]:
        """Hand on the stops of a run, in which the values of blocks that it has passed become those that they have learned to give."""
        previous, own, wanted = "", None, None
        for node, values, reference in stops:
            found = next((each for each in values if each.name == previous), None)
            if previous in self._starts and found is not None and own is not None and wanted is not None:
                self._learn(previous, own, wanted)
                values[found] = _run(Piece(self._program, self._starts[previous], previous), own)
            if found is not None and (previous in self._starts or previous in self._starts.values()):
                own = values[found]
            if node.name in self._starts:
                wanted = reference
            previous = node.name
            yield node, values, reference

    def _learn(self, end: str, own: Tensor, wanted: Tensor) -> None:
        """Learn the block that ends there."""
        block = _Block(self._program, self._whole, (self._starts[end], end), self._chosen, self._sizes)
        if block.grids:
            task = _Task(own, wanted, self._weights.of(end, wanted))
            nearer = _learn(block, task, self._iterations, self._generator)
            (self.nearer if nearer else self.left).append(tuple(block.grids))


class _Weights:
    """What errors at the end of a block are weighted by."""

    def __init__(self, whole: Program, context: Context, fisher: Fisher | None) -> None:
        outputs = whole.graph.output_node().args[0]
        if fisher is not None and isinstance(outputs, tuple | list):
            raise NotApplicableError(
                f"fisher: {fisher} needs one output, the logits, and this network has {len(outputs)}; leave fisher out"
            )
        self._whole, self._fisher, self._generator = whole, fisher, context.generator()
        self._labels = torch.cat([labels for _, labels in context.splits.calibration.batches(_BATCH)]) if fisher == "labels" else None

    def of(self, node: str, values: Tensor) -> Tensor:
        """Return the weight of every value of a node."""
        if self._fisher is None:
            return torch.ones([1] * values.ndim, device=values.device).expand_as(values)
        return fisher_information(Piece(self._whole, node, "output"), values, self._labels, self._generator)


@torch.no_grad()
def _run(piece: Piece, inputs: Tensor) -> Tensor:
    return torch.cat([piece(part.clone()) for part in inputs.split(_BATCH)])


@torch.enable_grad()
def _learn(block: _Block, task: _Task, iterations: int, generator: torch.Generator) -> bool:
    """Learn one block; say whether it came nearer to what is wanted, and leave it as it was where not."""
    before, unit = [each.detach().clone() for each in block.learned], task.total(block)
    learned, optimizer = block.learned, block.optimizer()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for _ in range(iterations):
        examples = torch.randint(len(task.inputs), (min(block.batch, len(task.inputs)),), generator=generator)
        loss = task.error(block, examples) / max(unit, 1e-12)
        slopes = torch.autograd.grad(loss, learned, allow_unused=True, materialize_grads=True)
        for each, slope in zip(learned, slopes, strict=True):
            each.grad = slope
        optimizer.step()
        schedule.step()
    nearer = task.total(block) < unit
    with torch.no_grad():
        for each, value in zip(learned, before, strict=True):
            each.grad = None
            if not nearer:
                each.copy_(value)
    block.keep()
    return nearer
