"""Who teaches: the network as it came, or others that are named, and what they answer and hold inside."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from laconic import zoo
from laconic.context import Context
from laconic.distill.features import flattened
from laconic.errors import LaconicError
from laconic.files import sha256
from laconic.program import Program, capture, clone, first_output, load
from laconic.program.taps import Tap, tapped
from laconic.train.imitation import fingerprint


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Teacher:
    """A network to learn from, by name."""

    model: str  # zoo:NAME, timm:NAME, file.py:factory, or a saved program.safetensors
    weights: Path | None = None


def _written(value: Any) -> Any:
    """Allow one teacher without a list, and a name without its key."""
    several = value if isinstance(value, list | tuple) else [value]
    return [{"model": each} if isinstance(each, str) else each for each in several]


Teachers = Annotated[tuple[Teacher, ...], BeforeValidator(_written)]


def depends_on(teachers: Sequence[Teacher]) -> list[str]:
    """Return the checksums of the files that teachers are read from."""
    named = [path for each in teachers for path in (each.weights, Path(each.model)) if path is not None]
    return [sha256(path) for path in named if path.is_file()]


def programs(teachers: Sequence[Teacher], program: Program, context: Context, step: str) -> list[Program]:
    """Return the teachers on the device of the training, in eval mode; where none is named, the context's.

    Args:
        teachers: as the user named them.
        program: the student.
        context: gives examples and the network as it came.
        step: for messages.

    Raises:
        LaconicError: there is none, one cannot be read, or it answers another question than the student.
    """
    found = [_read(each, context) for each in teachers] if teachers else [clone(each) for each in (context.teacher,) if each is not None]
    if not found:
        raise LaconicError(
            f"{step} needs a teacher: give Context(teacher=...), or run it through compress, which sets the original network; "
            "or name some in `teachers`"
        )
    for number, each in enumerate(found):
        name = teachers[number].model if teachers else "the network as it came"
        check_alike(each, program, context, f"{step}: the teacher {name}")
    return [each.eval().to(context.device) for each in found]


def _read(teacher: Teacher, context: Context) -> Program:
    if teacher.model.endswith(".safetensors"):
        return load(Path(teacher.model))
    return capture(zoo.load(teacher.model, teacher.weights), context.example())


@torch.no_grad()
def check_alike(teacher: Program, student: Program, context: Context, who: str) -> None:
    """Find, before any training, two networks that do not answer the same question.

    Raises:
        LaconicError: inputs or classes differ; says both.
    """
    takes = [[(entry.shape, entry.dtype) for entry in each.inputs] for each in (teacher, student)]
    if takes[0] != takes[1]:
        raise LaconicError(f"{who} takes inputs {_shapes(teacher)}, the student {_shapes(student)}; they must take the same")
    one, other = (first_output(each.eval()(*context.example())) for each in (teacher, clone(student).to(context.device)))
    if one.shape != other.shape:
        raise LaconicError(f"{who} answers with {one.shape[-1]} classes, the student with {other.shape[-1]}; they must be the same")


def _shapes(program: Program) -> str:
    return ", ".join(f"{str(entry.dtype).removeprefix('torch.')} {tuple(entry.shape)}" for entry in program.inputs)


class Answers:
    """What teachers answer to inputs: averaged logits, then the values of places inside the first of them."""

    def __init__(self, teachers: Sequence[Program], average: Callable[[list[Tensor]], Tensor], places: Sequence[Tap] = ()) -> None:
        self._teachers, self._average, self._places = list(teachers), average, list(places)
        self._first = tapped(teachers[0], [tap.node for tap in places]) if places else teachers[0]
        self.teacher = "+".join(map(fingerprint, teachers))
        self.places = ", ".join(f"{tap.node} {tap.axis}" for tap in places)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, as the networks give them, and features `(n, channels, positions)`, in float32."""
        logits, *values = self._first(inputs) if self._places else (first_output(self._first(inputs)),)
        others = [first_output(each(inputs)).float() for each in self._teachers[1:]]
        features = [flattened(value.float(), tap.axis) for value, tap in zip(values, self._places, strict=True)]
        return self._average([first_output(logits).float(), *others]), *features
