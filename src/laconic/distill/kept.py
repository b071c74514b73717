"""How a teacher's answers are kept: two bytes a number, and of many classes only the likeliest where they say almost all.

Source: Z. Shen, E. Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", ECCV 2022, section 3.3 (the likeliest classes
with the rest of the probability spread evenly over the others). Here what is spread evenly is the softened probability, at the temperature
of the training.
"""

from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

_LOST = 0.01  # share of what an answer says, in nats beyond even chances, that may be lost
_FEWEST = 8  # classes that are kept
_LARGEST_HALF = 65504.0


class Form(Protocol):
    """Rows of two-byte numbers in place of answers; the first of a row is never NaN."""

    @property
    def columns(self) -> int:
        """How many numbers a row has."""

    def written(self, answers: Tensor) -> Tensor:
        """Return rows (n, columns), float16, of answers (n, ...)."""

    def read(self, rows: Tensor) -> Tensor:
        """Return answers, float32."""


@dataclass(frozen=True)
class Whole:
    """Every number."""

    shape: tuple[int, ...]

    @property
    def columns(self) -> int:
        """How many numbers a row has."""
        return prod(self.shape)

    def written(self, answers: Tensor) -> Tensor:
        """Return rows of answers."""
        return answers.float().flatten(1).clamp(-_LARGEST_HALF, _LARGEST_HALF).half()

    def read(self, rows: Tensor) -> Tensor:
        """Return answers."""
        return rows.float().reshape(-1, *self.shape)


@dataclass(frozen=True)
class Likeliest:
    """The largest logits with their classes, and one logit for all others."""

    shape: tuple[int, ...]  # classes last
    count: int
    temperature: float

    @property
    def columns(self) -> int:
        """How many numbers a row has."""
        return prod(self.shape[:-1]) * (2 * self.count + 1)

    def written(self, answers: Tensor) -> Tensor:
        """Return rows of answers; class numbers are in the bits of float16."""
        values, classes, rest = likeliest(answers.float(), self.count, self.temperature)
        numbers = torch.cat([values, rest[..., None]], -1).clamp(-_LARGEST_HALF, _LARGEST_HALF).half()
        bits = [numbers.view(torch.int16).flatten(1), classes.to(torch.int16).flatten(1)]  # autocast does not put float16 together
        return torch.cat(bits, 1).view(torch.float16)

    def read(self, rows: Tensor) -> Tensor:
        """Return answers."""
        places = prod(self.shape[:-1])
        numbers, classes = rows.split([places * (self.count + 1), places * self.count], 1)
        numbers = numbers.float().reshape(-1, *self.shape[:-1], self.count + 1)
        found = classes.contiguous().view(torch.int16).long().reshape(-1, *self.shape[:-1], self.count) & 0xFFFF
        return restored(numbers[..., :-1], found, numbers[..., -1], self.shape[-1])


def likeliest(logits: Tensor, count: int, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest logits, their classes, and the logit that gives all others together the softened probability that they have.

    Args:
        logits: (..., classes).
        count: how many stay, fewer than there are.
        temperature: T, above 0.

    Returns:
        (..., count), (..., count) int64, (...).
    """
    values, classes = logits.topk(count, dim=-1)
    others = logits.scatter(-1, classes, -torch.inf)
    spread = torch.tensor(float(logits.shape[-1] - count)).log()
    return values, classes, temperature * ((others / temperature).logsumexp(-1) - spread)


def restored(values: Tensor, classes: Tensor, rest: Tensor, count: int) -> Tensor:
    """Return logits (..., count) from what `likeliest` gave."""
    return rest[..., None].expand(*rest.shape, count).scatter(-1, classes, values)


def enough(logits: Tensor, temperature: float) -> int | None:
    """Return how many of the largest logits say almost all, a power of two; None: keeping all takes no more than twice the bytes.

    Almost all: what is lost, the divergence from the true answer, is at most a hundredth of what the answer says, its divergence from
    even chances; both softened, means over the answers.

    Args:
        logits: (..., classes), at most 65,536.
        temperature: T, above 0.
    """
    classes, count = logits.shape[-1], _FEWEST
    chances = (logits / temperature).log_softmax(-1)
    said = _divergence(chances, torch.full_like(chances, -float(torch.tensor(float(classes)).log())))
    while 2 * (2 * count + 1) <= classes <= 65_536:
        again = restored(*likeliest(logits, count, temperature), classes)
        if _divergence(chances, (again / temperature).log_softmax(-1)) <= _LOST * said:
            return count
        count *= 2
    return None


def _divergence(first: Tensor, second: Tensor) -> float:
    return float((first.exp() * (first - second)).sum(-1).mean())


def form_of(answers: Tensor, temperature: float) -> Form:
    """Choose how answers like these, the first of them logits (n, ..., classes), are kept.

    Args:
        answers: some of them; maps, of four axes, are kept whole.
        temperature: of the training.
    """
    shape = tuple(answers.shape[1:])
    count = enough(answers.float(), temperature) if answers.ndim in (2, 3) else None
    return Whole(shape) if count is None else Likeliest(shape, count, temperature)
