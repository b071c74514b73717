"""Response distillation: the student learns the teacher's softened outputs beside the labels.

Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2: cross-entropy
with the teacher's distribution at temperature T, weighted by T^2 so that its gradient keeps its size when T changes. Here the
divergence is taken in place of the cross-entropy (they differ by the teacher's entropy, a constant), so that a perfect student has
loss zero. The other ways of comparing the outputs are in `distill.responses`, with their sources.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from laconic.data import Split
from laconic.distill.features import channel_wise
from laconic.distill.responses import decorrelation, decoupled_divergence, standardized
from laconic.distill.taught import Taught
from laconic.errors import LaconicError
from laconic.step import step
from laconic.train import classes_last


@step
class Response(Taught):
    """Train the network on the outputs of its teacher (by default itself as it came) and on the labels."""

    loss: Literal["divergence", "decoupled", "correlation", "channels"] = "divergence"  # how outputs are compared: Hinton's, DKD, DIST, CWD
    standardize: bool = False  # compare logits less their mean and by their spread, row by row
    target: Annotated[float, Field(ge=0)] = 1.0  # decoupled: weight of right against wrong; correlation: of each example's classes
    others: Annotated[float, Field(ge=0)] = 8.0  # decoupled: weight of the wrong classes among themselves; correlation: of each class

    def check(self, split: Split) -> None:
        """Find a way of comparing outputs that theirs do not allow.

        Raises:
            LaconicError: says which kind of labels it is for.
        """
        if split.boxes and (self.loss != "divergence" or self.standardize):
            raise LaconicError("distill.Response: boxes are compared by divergence alone, each class by itself; leave the others out")
        if self.loss == "channels" and (not split.maps or self.standardize):
            raise LaconicError("distill.Response: channels compares where in a map each class is; it needs a label to every pixel")

    def response(self, outputs: Tensor, answer: Tensor, labels: Tensor) -> Tensor:
        """Return what is lost against the teacher's outputs."""
        if self.loss == "channels":
            return channel_wise(outputs.flatten(2), answer.flatten(2), self.temperature)
        if self.loss == "divergence" and not self.standardize:
            return super().response(outputs, answer, labels)
        logits, answer, labels = classes_last(outputs).flatten(0, -2), classes_last(answer).flatten(0, -2), labels.flatten()
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
