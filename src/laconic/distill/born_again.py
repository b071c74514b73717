"""Born-again networks: generations of one architecture, each from random weights and taught by the one before.

Source: T. Furlanello, Z. Lipton, M. Tschannen, L. Itti, A. Anandkumar, "Born-Again Neural Networks", ICML 2018, section 3.
"""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from laconic.context import Context
from laconic.distill.response import Response
from laconic.program import Program, clone
from laconic.program.initial import randomized
from laconic.step import step


@step
class BornAgain(Response):
    """Train the network's architecture anew, from random weights, on its own outputs and the labels; again for every generation."""

    generations: Annotated[int, Field(ge=1)] = 1
    stays: Literal["last", "best"] = "last"  # the generation that goes on; best: on the validation split, the network as it came counted

    def __call__(self, program: Program, context: Context) -> Program:
        """Return the generation that stays."""
        generator, teacher = context.generator(), clone(program)
        lived = [(context.score(program, context.splits.validation), teacher)]
        for number in range(1, self.generations + 1):
            folder = None if context.folder is None else context.folder / f"generation-{number}"
            child = randomized(program, generator).to(context.device)
            child = Response.__call__(self, child, replace(context, teacher=None if self.teachers else teacher, folder=folder))
            lived.append((context.score(child, context.splits.validation), child))
            context.note(f"generation {number}: validation score {lived[-1][0]:.4f}")
            teacher = child
        return lived[-1][1] if self.stays == "last" else max(lived, key=lambda each: each[0])[1]
