"""Training on labels as a step: recovers accuracy after a lossy step, or trains a network from scratch."""

from typing import ClassVar

from laconic.context import Context
from laconic.program import Program
from laconic.step import step
from laconic.train import Training


@step
class FineTune(Training):
    """Train the network on its labels by cross-entropy; masks, quantizers and shapes stay as they are."""

    trains: ClassVar[bool] = True

    def __call__(self, program: Program, context: Context) -> Program:
        """Train in place."""
        fitted = context.fit(program, self, progress="fine-tuning")
        context.note(
            f"{fitted.epochs} epochs, validation score {fitted.score:.4f}" if fitted.score is not None else f"{fitted.epochs} epochs"
        )
        return program
