"""Mutual learning: several networks learn together from random weights or their own, each also from the others' answers.

Source: Y. Zhang, T. Xiang, T. Hospedales, H. Lu, "Deep Mutual Learning", CVPR 2018, equations 2 to 7: each network's loss is the
cross-entropy plus the divergence of the others' answers from its own. There each network takes a step in turn; here all take one together,
each from what the others answered before it.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from laconic.context import Context
from laconic.distill.teachers import Teachers, check_alike, depends_on, programs
from laconic.program import Program, first_output
from laconic.program.initial import randomized
from laconic.step import step
from laconic.train import Training, label_loss
from laconic.train.imitation import answer_loss


@step
class Mutual(Training):
    """Train the network together with others that learn from it while it learns from them; none of them is a teacher."""

    students: Annotated[int, Field(ge=2)] = 2  # networks in all, the network itself counted; the others begin from random weights
    peers: Teachers = ()  # named networks in place of the others
    temperature: Annotated[float, Field(gt=0)] = 1.0  # softens the answers
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5  # weight of the others' answers; the labels have 1 - alpha
    stays: Literal["first", "best"] = "best"  # which network goes on: the first, or of those of its architecture the best on validation
    trains: ClassVar[bool] = True

    @property
    def depends_on(self) -> list[str]:
        """Checksums of the files that the result depends on."""
        return depends_on(self.peers)

    def __call__(self, program: Program, context: Context) -> Program:
        """Train in place, or return the best of the network's own kind."""
        generator = context.generator()
        others = (
            programs(self.peers, program, context, "distill.Mutual")
            if self.peers
            else [randomized(program, generator) for _ in range(self.students - 1)]
        )
        for each in others:
            check_alike(each, program, context, "distill.Mutual: a peer")
        cohort = Cohort([program, *others])
        fitted = context.fit(cohort, self, CohortLoss(self.temperature, self.alpha), progress="learning mutually")
        scores = [context.score(each, context.splits.validation) for each in cohort.networks]
        listed = ", ".join(f"{score:.4f}" for score in scores)
        context.note(f"{fitted.epochs} epochs of {len(scores)} networks together; validation scores {listed}")
        alike = 1 if self.peers or self.stays == "first" else len(scores)
        chosen = max(range(alike), key=lambda number: scores[number])
        context.note(f"network {chosen + 1} goes on")
        return cohort.networks[chosen]


class Cohort(nn.Module):
    """Networks that learn together; called, it is the first."""

    def __init__(self, networks: Sequence[Program]) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)

    @property
    def networks(self) -> list[Program]:
        """The networks, in order."""
        return [cast(Program, each) for each in self.members]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the first network's outputs."""
        outputs: Tensor = self.networks[0](*inputs)
        return outputs


class CohortLoss:
    """The sum over the networks of `alpha T^2 KL(mean of the others || own) + (1 - alpha) CE`; the others' answers have no gradient."""

    def __init__(self, temperature: float, alpha: float) -> None:
        self.temperature, self.alpha = temperature, alpha

    def __call__(self, model: Cohort, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch."""
        answers = [first_output(each(inputs)).float() for each in model.networks]
        lost = list[Tensor]()
        for number, own in enumerate(answers):
            others = [each.detach() for place, each in enumerate(answers) if place != number]
            apart = torch.stack([answer_loss(own, other, labels, self.temperature) for other in others]).mean()
            lost.append(self.alpha * apart + (1 - self.alpha) * label_loss(own, labels))
        return torch.stack(lost).sum()
