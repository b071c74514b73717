"""Self-distillation: exits on the way learn from the labels, from the network's own last answer and from its last values.

Source: L. Zhang, J. Song, A. Gao, J. Chen, C. Bao, K. Ma, "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks
via Self Distillation", ICCV 2019, equations 2 to 4. Exits here are a mean over positions and a linear layer, not blocks of convolutions.
They are left behind: the network that goes on has its own shape.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from laconic.context import Context
from laconic.distill.features import flattened, hint
from laconic.distill.responses import softened_divergence
from laconic.distill.taught import Learning
from laconic.errors import NotApplicableError
from laconic.program import Program, first_output
from laconic.program.taps import Tap, tapped, taps
from laconic.step import step
from laconic.train import Training, label_loss


@step
class Exits(Training):
    """Train the network with exits on the way that learn from its end, so that its early layers learn what the late ones know."""

    exits: Annotated[int, Field(ge=1)] = 3  # at most, evenly over the depth; of places of one size the deepest
    temperature: Annotated[float, Field(gt=0)] = 3.0  # softens the last answer
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.3  # weight of the last answer for the exits; the labels have 1 - alpha
    inside: Annotated[float, Field(ge=0)] = 0.03  # weight of the last values for the values at the exits
    trains: ClassVar[bool] = True

    def __call__(self, program: Program, context: Context) -> Program:
        """Train in place."""
        if context.splits.calibration.labels.ndim != 1:
            raise NotApplicableError("distill.Exits needs one class to an example; here are many, or vectors")
        *places, last = _places(program, self.exits)
        with torch.no_grad():
            answer = program.eval()(*context.example())
        classes = first_output(answer).shape[-1]
        beside = Heads(places, last, classes, context.seed)
        loss = ExitLoss(self, program, [*places, last], beside)
        fitted = context.fit(Learning(program, beside), self, loss, progress="distilling within")
        context.note(f"{fitted.epochs} epochs with {len(places)} exits, which are gone again: {', '.join(map(str, places))}")
        return program


def _places(program: Program, exits: int) -> list[Tap]:
    """Return where exits are, and the last place.

    Raises:
        LaconicError: there is no place before the last.
    """
    found = taps(program)
    before = [tap for tap in found if tap.name != found[-1].name]
    deepest = list({tap.positions: tap for tap in before}.values())
    chosen = deepest if len(deepest) > 1 else before
    if not chosen:
        raise NotApplicableError("distill.Exits needs a value on the way to the output that carries everything on; this network has none")
    spread = torch.linspace(0, len(chosen) - 1, min(exits, len(chosen))).round().int().tolist()
    return [*(chosen[place] for place in dict.fromkeys(spread)), found[-1]]


class Heads(nn.Module):
    """The exits: answers from means over positions, and adapters of these to the last values."""

    def __init__(self, places: Sequence[Tap], last: Tap, classes: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.answers = nn.ModuleList(nn.Linear(tap.channels, classes) for tap in places)
            self.adapters = nn.ModuleList(nn.Linear(tap.channels, last.channels) for tap in places)


class ExitLoss:
    """The loss of the network's own answer and of every exit."""

    def __init__(self, step: Exits, program: Program, places: Sequence[Tap], heads: Heads) -> None:
        self._step, self._places, self._heads = step, places, heads
        self._tapped = tapped(program, [tap.node for tap in places])

    def __call__(self, model: Learning, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch."""
        if self._tapped.training != model.training:
            self._tapped.train(model.training)
        answer, *values = self._tapped(inputs)
        answer = answer.float()
        means = [flattened(value.float(), tap.axis).mean(-1) for value, tap in zip(values, self._places, strict=True)]
        lost, step = label_loss(answer, labels), self._step
        for head, adapt, mean in zip(self._heads.answers, self._heads.adapters, means, strict=False):
            exit_answer = head(mean).float()
            apart = softened_divergence(exit_answer, answer.detach(), step.temperature)
            lost = lost + (1 - step.alpha) * label_loss(exit_answer, labels) + step.alpha * apart
            lost = lost + step.inside * hint(adapt(mean)[..., None].float(), means[-1].detach()[..., None])
        return lost
