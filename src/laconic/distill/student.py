"""Another network in place of the one that came, to be taught by it.

Source: J. Ba, R. Caruana, "Do Deep Nets Really Need to be Deep?", NeurIPS 2014: a smaller architecture, from random weights, trained on
the answers of a larger one.
"""

from pathlib import Path

import torch

from laconic import zoo
from laconic.context import Context
from laconic.distill.teachers import check_alike
from laconic.errors import LaconicError
from laconic.files import sha256
from laconic.program import Program, capture
from laconic.step import step


@step
class Student:
    """Go on with another network, from random weights or given ones; the one that came stays the teacher of the steps that follow."""

    model: str = ""  # zoo:NAME, timm:NAME or file.py:factory; empty: the architecture of the network itself, from random weights
    weights: Path | None = None  # to begin with; none: random ones, from the run's seed

    @property
    def depends_on(self) -> list[str]:
        """Checksums of the files that the result depends on."""
        return [sha256(path) for path in (self.weights,) if path is not None and path.is_file()]

    def __call__(self, program: Program, context: Context) -> Program:
        """Build it."""
        if not self.model:
            from laconic.program.initial import randomized

            if self.weights is not None:
                raise LaconicError("distill.Student: weights are those of a named model; name it")
            context.note("the same architecture, from random weights")
            return randomized(program, context.generator())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            student = capture(zoo.load(self.model, self.weights), context.example()).to(context.device)
        check_alike(program, student, context, f"distill.Student: the network that came, whose student {self.model} is to be,")
        sizes = [sum(parameter.numel() for parameter in each.parameters()) for each in (program, student)]
        context.note(f"{self.model}: {sizes[1]:,} parameters in place of {sizes[0]:,}")
        return student
