"""How much of a network is to stay, in the unit that the user thinks in."""

from typing import Annotated, ClassVar, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Unit: TypeAlias = Literal["macs", "bytes", "structures"]
"""What can be counted without running the network."""

Share: TypeAlias = Annotated[float, Field(gt=0, lt=1)]
"""The share of a cost that stays."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Budget:
    """The share of one cost that stays, in place of what a family of steps calls it by."""

    own: ClassVar[str]  # the setting that says the same in the family's own unit

    macs: Share | None = None  # share of the multiply-accumulates that stays
    bytes: Share | None = None  # share of the bytes that stays
    latency: Share | None = None  # share of the latency on the runtime that stays

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        names = (self.own, "macs", "bytes", "latency")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(names[:-1])} and {names[-1]}, not {' and '.join(given)}")
        return self

    @property
    def asked(self) -> tuple[Literal["macs", "bytes", "latency"], float] | None:
        """The cost and the share of it that stays; None: neither was given."""
        if self.macs is not None:
            return "macs", self.macs
        if self.bytes is not None:
            return "bytes", self.bytes
        return None if self.latency is None else ("latency", self.latency)


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Goal(Budget):
    """How many structures go, or the share of a cost that stays."""

    own: ClassVar[str] = "ratio"

    ratio: Annotated[float, Field(ge=0, lt=1)] | None = None  # share of the structures removed; or give macs, bytes or latency

    def goal(self, ratio: float) -> tuple[Unit | Literal["latency"], float]:
        """Return the unit of the target and the share of it that stays; `ratio` is removed where nothing was asked for."""
        return self.asked or ("structures", 1 - (ratio if self.ratio is None else self.ratio))
