"""Masks that grow from batch to batch while a network trains, then stay.

Source: M. Zhu, S. Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", arXiv:1710.01878, section 3.
"""

from collections.abc import Callable
from typing import Annotated, Self, TypeAlias

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from laconic.program import Mask
from laconic.program.cut import KeptChannels
from laconic.prune.sparse_training import SparseTraining, close_lowest, cubic
from laconic.train import Ramp

Scores: TypeAlias = Callable[[], list[Tensor]]
"""Returns the importance of every entry, a tensor for each mask."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class GrowingSparsity(Ramp, SparseTraining):
    """When sparsity grows; after `end` no weight comes or goes."""

    initial: Annotated[float, Field(ge=0, lt=1)] = 0.0  # sparsity at `begin`; before it no weight is held at zero

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.initial >= self.sparsity:
            raise ValueError(f"initial={self.initial:g} must be below sparsity={self.sparsity:g}")
        return self


class Growing:
    """Called after every batch of training: lets masks hold the entries that matter least, ever more of them."""

    def __init__(self, settings: GrowingSparsity, masks: dict[str, Mask], scores: Scores) -> None:
        """Take masks and what they are chosen by; all state is in the masks, which a checkpoint has."""
        self.settings = settings
        self.plan = repr(settings)  # so that a checkpoint of another plan is not gone on with
        self._masks, self._scores = masks, scores

    def __call__(self, done: int, total: int) -> KeptChannels | None:
        """Choose anew where it is time; until the end the network is not yet the one asked for."""
        settings = self.settings
        if done > settings.last(total):
            return None
        share = settings.share(done, total)
        if share is not None:
            sparsity = cubic(share, settings.sparsity, settings.initial)
            close_lowest(self._masks, self._scores(), sparsity, settings.scope)
        return {}
