"""What comes little by little while a network trains: when it begins, when all of it is there, and how often it is looked at."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Ramp:
    """When a network that trains is changed, in shares of training."""

    begin: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of training after which the change begins
    end: Annotated[float, Field(gt=0, le=1)] = 0.75  # share of training after which all of it is there
    every: Annotated[int, Field(ge=1)] = 10  # batches from one change to the next

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.begin >= self.end:
            raise ValueError(f"begin={self.begin:g} must be before end={self.end:g}")
        return self

    def last(self, total: int) -> int:
        """Return the batch after which all is there, of `total`."""
        return max(self._first(total) + 1, round(self.end * total))

    def share(self, done: int, total: int) -> float | None:
        """Return the share of the way after `done` batches of `total`, 0 to 1, where something changes there; None: nothing does.

        >>> ramp = Ramp(begin=0.2, end=0.6, every=10)
        >>> [ramp.share(done, 100) for done in (10, 20, 35, 40, 60, 65, 70)]
        [None, 0.0, None, 0.5, 1.0, None, 1.0]
        """
        first, last = self._first(total), self.last(total)
        due = done == last or (done >= first and (done - first) % self.every == 0)
        return min(1.0, (done - first) / (last - first)) if due else None

    def _first(self, total: int) -> int:
        return int(self.begin * total)
