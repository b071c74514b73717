"""Response distillation: the student learns the teacher's softened outputs beside the labels.

Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2: cross-entropy
with the teacher's distribution at temperature T, weighted by T^2 so that its gradient keeps its size when T changes. Here the
divergence is taken in place of the cross-entropy (they differ by the teacher's entropy, a constant), so that a perfect student has
loss zero.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from laconic.context import Context
from laconic.errors import LaconicError
from laconic.program import Program, clone
from laconic.step import step
from laconic.train import Training, response_loss


@step
class Response(Training):
    """Train the network on the outputs of its teacher (by default itself as it came) and on the labels."""

    temperature: Annotated[float, Field(gt=0)] = 4.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.7  # weight of the teacher; the labels have 1 - alpha
    trains: ClassVar[bool] = True

    def __call__(self, program: Program, context: Context) -> Program:
        """Train in place."""
        if context.teacher is None:
            raise LaconicError(
                "distill.Response needs a teacher: give Context(teacher=...), or run it through compress, which sets the original network"
            )
        teacher = clone(context.teacher).eval().to(context.device)
        fitted = context.fit(program, self, response_loss(teacher, self.temperature, self.alpha), progress="distilling")
        context.note(f"{fitted.epochs} epochs against the teacher's outputs at temperature {self.temperature:g}")
        return program
