"""Another network in place of the one that came, to be taught by it.

Source: J. Ba, R. Caruana, "Do Deep Nets Really Need to be Deep?", NeurIPS 2014: a smaller architecture, from random weights, trained on
the answers of a larger one.
"""

from pathlib import Path
from typing import Literal

import torch

from laconic import zoo
from laconic.context import Context
from laconic.distill.teachers import check_alike
from laconic.errors import LaconicError
from laconic.files import sha256
from laconic.program import Program, Weight, capture, weights
from laconic.program.initial import randomized
from laconic.step import step


@step
class Student:
    """Go on with another network, from random weights or given ones; the one that came stays the teacher of the steps that follow."""

    model: str = ""  # zoo:NAME, timm:NAME or file.py:factory; empty: the architecture of the network itself, from random weights
    weights: Path | None = None  # to begin with; none: random ones, from the run's seed
    embeddings: Literal["own", "teacher"] = "own"  # of words: teacher: the principal components of the teacher's table

    @property
    def depends_on(self) -> list[str]:
        """Checksums of the files that the result depends on."""
        return [sha256(path) for path in (self.weights,) if path is not None and path.is_file()]

    def __call__(self, program: Program, context: Context) -> Program:
        """Build it."""
        if not self.model:
            if self.weights is not None:
                raise LaconicError("distill.Student: weights are those of a named model; name it")
            if self.embeddings == "teacher":
                raise LaconicError("distill.Student: embeddings of the teacher are for a named model; name it")
            context.note("the same architecture, from random weights")
            return randomized(program, context.generator())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            student = capture(zoo.load(self.model, self.weights), context.example()).to(context.device)
        check_alike(program, student, context, f"distill.Student: the network that came, whose student {self.model} is to be,")
        if self.embeddings == "teacher":
            context.note(_inherit(program, student))
        sizes = [sum(parameter.numel() for parameter in each.parameters()) for each in (program, student)]
        context.note(f"{self.model}: {sizes[1]:,} parameters in place of {sizes[0]:,}")
        return student


@torch.no_grad()
def _inherit(teacher: Program, student: Program) -> str:
    """Fill the student's table of word vectors with the principal components of the teacher's; returns what was done, in words.

    Of all tables of that width they keep most of the teacher's variance: C. Eckart, G. Young, "The approximation of one matrix by another
    of lower rank", Psychometrika 1936. They are scaled to the spread that the student's table had.

    Raises:
        LaconicError: a network has no such table, or they are of other words.
    """
    theirs, ours = (_table(each) for each in (teacher, student))
    if theirs is None or ours is None or len(theirs.value) != len(ours.value) or theirs.value.shape[1] < ours.value.shape[1]:
        sizes = [None if each is None else tuple(each.value.shape) for each in (theirs, ours)]
        raise LaconicError(
            "distill.Student: embeddings are taken from a table of as many words and at least as many columns; "
            f"the teacher's is {sizes[0]}, the student's {sizes[1]}"
        )
    centred = theirs.value.double() - theirs.value.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)
    width = ours.value.shape[1]
    projected = centred @ directions[:, -width:]
    ours.value.copy_(projected * (ours.value.double().std() / projected.std()))
    share = float(variances[-width:].sum() / variances.sum())
    return f"{ours.name} holds {width} principal components of the teacher's {theirs.name}, {share:.0%} of its variance"


def _table(program: Program) -> Weight | None:
    """Return the largest table of embeddings, if there is one."""
    return max((each for each in weights(program) if each.kind == "embedding"), key=lambda each: len(each.value), default=None)
