"""What every step that learns from a teacher does: who teaches, what is answered, and one training on both answers and labels."""

import hashlib
import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, TypeAlias

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated
from torch import Tensor, nn

from laconic.context import Context
from laconic.data import Split
from laconic.data import fingerprint as data_fingerprint
from laconic.distill.features import flattened
from laconic.distill.remembered import LARGEST, Remembered
from laconic.distill.responses import averaged
from laconic.distill.teachers import Answers, Teachers, depends_on, programs
from laconic.errors import LaconicError
from laconic.program import Program
from laconic.program.taps import Tap, matched, named, tapped, taps
from laconic.step import step_name
from laconic.train import Training, label_loss
from laconic.train.detection import averaged_detections
from laconic.train.imitation import answer_loss

Pair: TypeAlias = tuple[Tap, Tap]
"""A place in the student, and one in the teacher."""


@validated(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Taught(Training):
    """Training on the answers of teachers beside the labels."""

    temperature: Annotated[float, Field(gt=0)] = 4.0  # softens both networks' answers
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.7  # weight of the teacher's answers; the labels have 1 - alpha
    teachers: Teachers = ()  # networks to learn from, several averaged; none: the network as it came
    views: Annotated[int, Field(ge=1)] | None = None  # of an example, whose answers are kept; after so many epochs they come again
    cache: Path | None = None  # folder of answers that outlive the run; None: with its checkpoints
    trains: ClassVar[bool] = True

    @property
    def depends_on(self) -> list[str]:
        """Checksums of the files that the result depends on."""
        return depends_on(self.teachers)

    def check(self, split: Split) -> None:
        """Find, before any work, what labels of this kind do not allow; the usual: nothing."""

    def response(self, outputs: Tensor, answer: Tensor, labels: Tensor) -> Tensor:
        """Return what is lost against the teacher's outputs; both float, as `train.label_loss` takes them."""
        return answer_loss(outputs, answer, labels, self.temperature)

    def pairs(self, program: Program, teacher: Program) -> list[Pair]:
        """Return the places inside both networks whose values are compared; none: only their answers are."""
        return []

    def comparison(self, pairs: Sequence[Pair]) -> nn.Module | None:
        """Return what compares the values at `pairs`, with whatever has to learn to do so; None: nothing does.

        It is called with the student's and the teacher's features, a list of `(n, channels, positions)` each, and the labels, and
        gives a scalar.
        """
        return None

    @property
    @abstractmethod
    def about(self) -> str:
        """What is learned, in words for the journal."""

    def __call__(self, program: Program, context: Context) -> Program:
        """Train in place."""
        self.check(context.splits.calibration)
        teachers = programs(self.teachers, program, context, step_name(self))
        self._warn(teachers, program, context)
        pairs = self.pairs(program, teachers[0])
        compared = self.comparison(pairs)
        average = averaged_detections if context.splits.calibration.boxes else partial(averaged, temperature=self.temperature)
        answers = Answers(teachers, average, [theirs for _, theirs in pairs])
        lesson = Lesson(self, program, [ours for ours, _ in pairs], answers)
        batches = self._batches(answers, context)
        student = program if compared is None else Learning(program, compared)
        after_epoch = None if batches is None else batches.keep
        fitted = context.fit(student, self, lesson, progress="distilling", after_epoch=after_epoch, batches=batches)
        context.note(f"{fitted.epochs} epochs: {self.about}")
        for ours, theirs in pairs:
            context.note(f"matched: {ours} with the teacher's {theirs}")
        return program

    def _warn(self, teachers: Sequence[Program], program: Program, context: Context) -> None:
        """Say so where the student does better than who is to teach it."""
        scores = [context.score(each, context.splits.validation) for each in teachers]
        own = context.score(program, context.splits.validation)
        context.note(f"validation score of the teacher {', '.join(f'{score:.4f}' for score in scores)}, of the student before {own:.4f}")
        if scores and max(scores) < own:
            text = f"warning: the teacher scores {max(scores):.4f} on the validation split, below the student's {own:.4f}"
            context.note(text)
            sys.stderr.write(f"{text}\n")

    def _batches(self, answers: Answers, context: Context) -> Remembered | None:
        if self.views is None or context.splits.train is None:
            return None
        splits, names = context.splits, (answers.teacher, answers.places, str(self.temperature), data_fingerprint(context.splits))
        root = self.cache or (context.folder / "teacher" if context.folder else None)
        folder = root / _digest(names) if root else None
        kept = Remembered(context.splits.train, splits.augment, answers, self.views, context.seed, context.device, folder, self.temperature)
        if kept.bytes > LARGEST:
            raise LaconicError(
                f"{step_name(self)}: the answers to one view of all examples take {kept.bytes / 1e9:.1f} GB, more than "
                f"{LARGEST / 1e9:.1f}; leave views out, or compare fewer layers"
            )
        context.note(f"{kept.about}; {kept.bytes:,} bytes to a view of all examples")
        return kept


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


class Learning(nn.Module):
    """A student with what learns beside it and is left behind: called, it is the student."""

    def __init__(self, student: Program, beside: nn.Module) -> None:
        super().__init__()
        self.student, self.beside = student, beside

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the student's outputs."""
        outputs: Tensor = self.student(*inputs)
        return outputs


@dataclass
class Lesson:
    """The loss of one step: labels, answers, and what is compared inside."""

    step: Taught
    program: Program
    places: Sequence[Tap]
    answers: Answers

    def __post_init__(self) -> None:
        self._student = tapped(self.program, [tap.node for tap in self.places]) if self.places else self.program
        self.teacher = self.answers.teacher  # so that a checkpoint of another teacher's training is not gone on with

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, *kept: Tensor) -> Tensor:
        """Return the loss of a batch."""
        answer, *theirs = kept or self.answers(inputs)
        if self._student.training != model.training:
            self._student.train(model.training)
        given = self._student(inputs)
        logits, *values = given if isinstance(given, tuple) else (given,)
        logits, step = logits.float(), self.step
        lost = (1 - step.alpha) * label_loss(logits, labels)
        if step.alpha:
            lost = lost + step.alpha * step.response(logits, answer, labels)
        if isinstance(model, Learning):
            ours = [flattened(value.float(), tap.axis) for value, tap in zip(values, self.places, strict=True)]
            with torch.autocast(logits.device.type, enabled=False):
                lost = lost + model.beside(ours, theirs, labels)
        return lost


def places(program: Program, teacher: Program, names: Sequence[tuple[str, str]]) -> list[Pair]:
    """Pair places by the names of their layers, or where none are given, by the graphs.

    Raises:
        LaconicError: there is no such place, or nothing matches; lists what there is.
    """
    ours, theirs = taps(program), taps(teacher)
    return named(ours, theirs, names) if names else matched(ours, theirs)
