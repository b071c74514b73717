"""The target of structured pruning, in the unit that the user thinks in."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Unit: TypeAlias = Literal["macs", "bytes", "structures"]
"""What can be counted without running the network."""

Share: TypeAlias = Annotated[float, Field(gt=0, lt=1)]
"""The share of a cost that stays."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Goal:
    """How much is to go: one of four units."""

    ratio: Annotated[float, Field(ge=0, lt=1)] | None = None  # share of the structures removed
    macs: Share | None = None  # in place of ratio: share of the multiply-accumulates that stays
    bytes: Share | None = None  # in place of ratio: share of the bytes that stays
    latency: Share | None = None  # in place of ratio: share of the latency on the runtime that stays

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        given = [name for name in ("ratio", "macs", "bytes", "latency") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of ratio, macs, bytes and latency, not {' and '.join(given)}")
        return self

    def goal(self, ratio: float) -> tuple[Unit | Literal["latency"], float]:
        """Return the unit of the target and the share of it that stays; `ratio` is removed where nothing was asked for."""
        if self.macs is not None:
            return "macs", self.macs
        if self.bytes is not None:
            return "bytes", self.bytes
        if self.latency is not None:
            return "latency", self.latency
        return "structures", 1 - (ratio if self.ratio is None else self.ratio)
