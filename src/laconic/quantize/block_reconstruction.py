"""Block reconstruction: the roundings of all layers of a block, and the steps of its activations, are learned together.

Source: Y. Li, R. Gong, X. Tan, Y. Yang, P. Hu, Q. Zhang, F. Yu, W. Wang, S. Gu, "BRECQ: Pushing the Limit of Post-Training Quantization
by Block Reconstruction", ICLR 2021, section 3.2 and algorithm 1: residual block by residual block, and layer by layer between them, the
output on quantized inputs is brought near that of the float network. Roundings are relaxed and regularized as in
`learned_rounding`; steps are learned by the gradient of S. Esser et al., "Learned Step Size Quantization", ICLR 2020.

Here roundings start where layer by layer left them, and the error is the mean square, not weighted by Fisher information. A block that
does not come out nearer on all inputs is left as it was.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from laconic.context import Context
from laconic.numeric.rounding import broadcast, levels
from laconic.program import Program, Uniform, read
from laconic.program.blocks import stretches
from laconic.program.fold import assign
from laconic.program.observe import examples_at_once, stepwise
from laconic.program.represent import edges, representations
from laconic.quantize.learned_rounding import RATE, STRENGTH, regularizer, relaxed, relaxed_start
from laconic.train.progress import bar

_BATCH = 32
_STEP_RATE = 0.003  # of Adam, as a share of the step
_SURE = 0.8  # how far towards its code a relaxed rounding starts


@dataclass(frozen=True)
class _Block:
    """A stretch of a quantized program and what it reads."""

    name: str
    start: fx.Node
    end: fx.Node
    target: str  # the node of the float network whose value it is to give
    nodes: tuple[fx.Node, ...]  # behind `start` up to `end`
    weights: tuple[fx.Node, ...]  # quantized ones that it reads, and no other block
    constants: tuple[fx.Node, ...]  # other tensors that it reads


class _Rounding(nn.Module):
    """A quantized weight whose roundings are relaxed."""

    low: Tensor
    step: Tensor
    free: Tensor

    def __init__(self, dense: Tensor, quantized: Tensor, grid: Uniform) -> None:
        super().__init__()
        step = broadcast(grid.step.detach(), dense, grid.axis)
        limits = levels(grid.bits, grid.signed)
        codes = torch.round(quantized / step)
        low = torch.minimum((dense / step).clamp(*limits).floor().clamp(max=limits[1] - 1), codes)
        self.register_buffer("low", torch.maximum(low, codes - 1))
        self.register_buffer("step", step)
        self.register_buffer("free", dense != 0)
        self.inner = nn.Parameter(relaxed_start(0.5 + (codes - self.low - 0.5) * _SURE))

    def forward(self, hard: bool = False) -> Tensor:
        """Return the dense weight."""
        up = (self.inner >= 0).float() if hard else relaxed(self.inner)
        return torch.where(self.free, (self.low + up) * self.step, 0.0)


def reconstruct_blocks(program: Program, whole: Program, context: Context, iterations: int) -> tuple[int, list[str]]:
    """Learn the roundings and steps of a quantized program, in place, block by block, each behind the blocks before it as they are by then.

    Args:
        program: quantized; its weights lie on their grids.
        whole: the network before, whose nodes have the same names.
        context: gives calibration inputs and randomness.
        iterations: per block.

    Returns:
        How many blocks came nearer to the float network, and the names of those that were left as they were.
    """
    program.eval()
    inputs, generator = torch.cat(list(context.calibration()))[: examples_at_once(program)], context.generator()
    found, left = _blocks(program, whole), list[str]()
    own_run, float_run = stepwise(program, (inputs,)), stepwise(whole.eval(), (inputs,))
    with bar("blocks", 0, len(found)) as tell:
        for number, block in enumerate(found):
            with torch.no_grad():
                values = next(values for _, values in own_run if block.start in values)
                target = next(value for _, reference in float_run for node, value in reference.items() if node.name == block.target)
            if not _learn(program, whole, block, values[block.start], target, iterations, generator):
                left.append(block.name)
            values.update({node: read(program, str(node.target)).detach() for node in block.weights})
            tell(number + 1, block.name)
    return len(found) - len(left), left


def _blocks(program: Program, whole: Program) -> list[_Block]:
    """Return the blocks of a quantized program that can be run by themselves."""
    by_name, behind = {node.name: node for node in program.graph.nodes}, {str(node.args[0]): node for node in edges(program)}
    nodes, found = list(program.graph.nodes), list[_Block]()
    for first, last in stretches(whole):
        start, end = (behind.get(node.name, by_name[node.name]) for node in (first, last))
        inside = tuple(node for node in nodes[nodes.index(start) + 1 : nodes.index(end) + 1] if node.op != "get_attr")
        tensors = dict.fromkeys(each for node in inside for each in node.all_input_nodes if each.op == "get_attr")
        known = {start, *inside, *tensors}
        weights = tuple(each for each in tensors if _grid(program, each) and len(each.users) == 1)
        if weights and all(each in known for node in inside for each in node.all_input_nodes):
            others = tuple(each for each in tensors if each not in weights)
            found.append(_Block(str(weights[0].target), start, end, last.name, inside, weights, others))
    return found


def _grid(program: Program, tensor: fx.Node) -> Uniform | None:
    return next((form for form in representations(program, str(tensor.target)) if isinstance(form, Uniform)), None)


def _learn(
    program: Program, whole: Program, block: _Block, inputs: Tensor, target: Tensor, iterations: int, generator: torch.Generator
) -> bool:
    """Learn one block; says whether it came nearer to the target, and leaves it as it was where not."""
    roundings, before = dict[fx.Node, _Rounding](), dict[fx.Node, Tensor]()
    for node in block.weights:
        grid, before[node] = _grid(program, node), read(program, str(node.target)).detach().clone()
        assert grid is not None
        roundings[node] = _Rounding(read(whole, str(node.target)).detach(), before[node], grid)
    own, taken = edges(program), str(block.start.target)
    grids = {str(node.target): form for node, form in own.items() if node in block.nodes and str(node.target) != taken}
    steps = [form.scale for form in grids.values() if isinstance(form, Uniform)]
    kept = [step.detach().clone() for step in steps]
    run = _Run(program, block)
    at_start = run.error(before, inputs, target)
    inner = [rounding.inner for rounding in roundings.values()]
    groups = [{"params": inner, "lr": RATE}, *({"params": [step], "lr": _STEP_RATE * float(step.detach().mean())} for step in steps)]
    optimizer = torch.optim.Adam(groups)
    for iteration in range(iterations):
        chosen = torch.randint(len(inputs), (min(_BATCH, len(inputs)),), generator=generator).to(inputs.device)
        output = run({node: rounding() for node, rounding in roundings.items()}, inputs[chosen])
        costs = torch.cat([regularizer(relaxed(each), iteration / iterations).flatten() for each in inner])
        loss = (output - target[chosen]).pow(2).mean() / max(at_start, 1e-12) + STRENGTH * costs.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        learned = {node: rounding(hard=True) for node, rounding in roundings.items()}
        nearer = run.error(learned, inputs, target) < at_start
        for node, value in (learned if nearer else before).items():
            assign(program, str(node.target), value)
        for step, value in zip(steps, kept, strict=True):
            step.grad = None
            if not nearer:
                step.copy_(value)
    return nearer


class _Run:
    """Runs a block by itself, with other weights than its own."""

    def __init__(self, program: Program, block: _Block) -> None:
        self._block, self._interpreter = block, fx.Interpreter(program)
        self._constants = {node: read(program, str(node.target)).detach() for node in block.constants}

    def __call__(self, weights: dict[fx.Node, Tensor], inputs: Tensor) -> Tensor:
        """Return the block's output."""
        values: dict[fx.Node, Any] = {**self._constants, **weights, self._block.start: inputs}
        self._interpreter.env = values
        for node in self._block.nodes:
            values[node] = self._interpreter.run_node(node)
        output: Tensor = values[self._block.end]
        return output

    def error(self, weights: dict[fx.Node, Tensor], inputs: Tensor, target: Tensor) -> float:
        """Return the mean square difference of the output from the target."""
        with torch.no_grad():
            parts = zip(inputs.split(_BATCH), target.split(_BATCH), strict=True)
            return sum(float((self(weights, part) - wanted).pow(2).sum()) for part, wanted in parts) / target.numel()
