"""Response distillation: the student learns the teacher's softened outputs beside the labels.

Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2: cross-entropy
with the teacher's distribution at temperature T, weighted by T^2 so that its gradient keeps its size when T changes. Here the
divergence is taken in place of the cross-entropy (they differ by the teacher's entropy, a constant), so that a perfect student has
loss zero. The other ways of comparing the outputs are in `distill.responses`, with their sources.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from laconic.distill.responses import decorrelation, decoupled_divergence, standardized
from laconic.distill.taught import Taught
from laconic.step import step


@step
class Response(Taught):
    """Train the network on the outputs of its teacher (by default itself as it came) and on the labels."""

    loss: Literal["divergence", "decoupled", "correlation"] = "divergence"  # how outputs are compared: Hinton's, DKD or DIST
    standardize: bool = False  # compare logits less their mean and by their spread, row by row
    target: Annotated[float, Field(ge=0)] = 1.0  # decoupled: weight of right against wrong; correlation: of each example's classes
    others: Annotated[float, Field(ge=0)] = 8.0  # decoupled: weight of the wrong classes among themselves; correlation: of each class

    def response(self, logits: Tensor, answer: Tensor, labels: Tensor) -> Tensor:
        """Return what is lost against the teacher's logits."""
        if self.standardize:
            logits, answer = standardized(logits), standardized(answer)
        if self.loss == "decoupled":
            return decoupled_divergence(logits, answer, labels, self.temperature, self.target, self.others)
        if self.loss == "correlation":
            return decorrelation(logits, answer, self.temperature, self.target, self.others)
        return super().response(logits, answer, labels)

    @property
    def about(self) -> str:
        """What is learned, in words."""
        pattern = "the pattern of " if self.standardize else ""
        return f"{pattern}the teacher's outputs at temperature {self.temperature:g}, compared by {self.loss}"
