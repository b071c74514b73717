"""Layer pruning: remove whole residual branches and blocks that keep the shape of their input, those whose loss is felt least.

Source: the choice by measured damage is that of X. Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You
Expect", arXiv:2403.03853, section 2, with the divergence of the outputs in place of the change of the hidden state, measured anew after
every block that goes; that residual networks bear it: A. Veit, M. Wilber, S. Belongie, "Residual Networks Behave Like Ensembles of
Relatively Shallow Networks", NeurIPS 2016.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, fx

from laconic.context import Context
from laconic.errors import NotApplicableError, UnreachableError
from laconic.goal import Goal
from laconic.measure import macs, macs_per_node
from laconic.program import Program, clone, packed, packed_bytes, weights
from laconic.program.blocks import Block, blocks, only_for, remove
from laconic.program.observe import observe
from laconic.program.select import matches
from laconic.recover import check_data, recover, retrain
from laconic.step import Patterns, step
from laconic.train import Training
from laconic.train.imitation import softened_divergence

_RATIO = 0.25  # of the blocks, removed where no target is given


@step
class Layers(Goal):
    """Remove the blocks whose absence changes the outputs least.

    Smaller and faster, the more so the deeper the network: what is left stays as wide as it was.
    """

    examples: Annotated[int, Field(ge=1)] = 128  # calibration examples that the damage is measured on
    training: Training | None = None  # afterwards, on labels and the answers of the network as it came; None: none
    include: Patterns = ()  # name patterns of layers: only blocks with one of them may go; empty: all
    exclude: Patterns = ()  # name patterns of layers that stay

    @property
    def trains(self) -> bool:
        """Whether training data are needed."""
        return self.training is not None

    def __call__(self, program: Program, context: Context) -> Program:
        """Return a smaller program."""
        check_data(program, context, self.training)
        if self.include or self.exclude:
            weights(program, self.include, self.exclude)  # a pattern that matches nothing is an error
        unit, share = self.goal(_RATIO)
        smaller, damage = clone(program), _Damage(program, context, self.examples)
        budget = _Budget(unit, share, program, context, len(self._candidates(program)))
        while not budget.met(smaller):
            candidates = self._candidates(smaller)
            if not candidates:
                least = budget.reached(smaller)
                raise UnreachableError(f"{unit}={share:g} cannot be reached: {least:.3f} is left when every block that may go is gone")
            block = min(candidates, key=lambda each: damage.without(smaller, each) / budget.saved(smaller, each))
            remove(smaller, block)
            budget.removed += 1
            context.note(f"without {', '.join(block.layers)}: divergence {damage.of(smaller):.4f}")
        recover(smaller, program, {}, context, "statistics")
        retrain(smaller, self.training, context, "training")
        return smaller

    def _candidates(self, program: Program) -> list[Block]:
        return [block for block in blocks(program) if self._may_go(block)]

    def _may_go(self, block: Block) -> bool:
        included = not self.include or any(matches(layer, self.include) for layer in block.layers)
        return included and not any(matches(layer, self.exclude) for layer in block.layers)


class _Damage:
    """How far outputs are from those of the whole network: mean divergence of the predicted distributions, in nats."""

    def __init__(self, program: Program, context: Context, examples: int) -> None:
        self.inputs = torch.cat(list(context.calibration()))[:examples]
        self.wanted = self._logits(program)

    def of(self, program: Program) -> float:
        return float(softened_divergence(self._logits(program), self.wanted, 1.0))

    def without(self, program: Program, block: Block) -> float:
        """Return the damage when the block's input is passed on in the place of its result."""
        return float(softened_divergence(self._logits(program, block), self.wanted, 1.0))

    def _logits(self, program: Program, block: Block | None = None) -> Tensor:
        seen = dict[str, Tensor]()
        bounds = () if block is None else (block.start, block.end)
        output = next(node for node in program.graph.nodes if node.op == "output").all_input_nodes[0]

        def visit(node: fx.Node, value: Tensor) -> Tensor | None:
            if block is not None and node.name == block.end:
                value = seen[block.start]
            seen[node.name] = value
            return value

        observe(program, [(self.inputs,)], [node for node in program.graph.nodes if node.name in bounds or node is output], visit)
        return seen[output.name].float().flatten(1)


class _Budget:
    """When enough is gone."""

    def __init__(self, unit: str, share: float, whole: Program, context: Context, candidates: int) -> None:
        if not candidates:
            raise NotApplicableError(
                "no block may go: there is no residual branch or layer that keeps its input's shape, or the patterns leave none"
            )
        self.unit, self.share, self.whole, self.context = unit, share, whole, context
        self.candidates, self.removed = candidates, 0
        self.before, self.macs = self._cost(whole), macs_per_node(whole, context.example())

    def met(self, program: Program) -> bool:
        if self.unit == "structures":
            wanted = (1 - self.share) * self.candidates
            return self.removed >= (max(1, round(wanted)) if wanted else 0)
        return self.removed > 0 and self.reached(program) <= self.share

    def reached(self, program: Program) -> float:
        """Return the share that is left."""
        if self.unit == "latency":
            return self.context.timer()(self.whole, program)
        return self._cost(program) / self.before

    def saved(self, program: Program, block: Block) -> float:
        """Return what a block's absence saves, above 0; the same for every block where blocks are counted."""
        if self.unit == "structures":
            return 1.0
        gone = only_for(program, block)
        if self.unit != "bytes":
            return max(sum(self.macs.get(node.name, 0) for node in gone), 1)
        read = {str(node.target) for node in program.graph.nodes if node.op == "get_attr" and node not in gone}
        tensors = {str(node.target) for node in gone if node.op == "get_attr"} - read
        return max(sum(packed(program, name).bytes for name in tensors), 1)

    def _cost(self, program: Program) -> int:
        return packed_bytes(program) if self.unit == "bytes" else macs(program, self.context.example())
