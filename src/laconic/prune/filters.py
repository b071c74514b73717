"""Filter pruning: remove the channels of convolutions and the neurons of linear layers that matter least, wherever they are coupled.

Source: G. Fang, X. Ma, M. Song, M. B. Mi, X. Wang, "DepGraph: Towards Any Structural Pruning", CVPR 2023, for pruning coupled layers
together; here the groups come from the axis algebra of `program.groups`. Criteria and recovery cite theirs in `importance`, `ranking`
and `recover`.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from laconic.context import Context
from laconic.program import Program
from laconic.program.groups import Group
from laconic.prune.structured import Structured, Work, prune
from laconic.step import step


@step
class Filters(Structured):
    """Remove the least important filters and neurons, and refit what reads them.

    Smaller, for the tensors are really cut. Faster where the runtime likes the widths that are left: give `multiple_of` for that.
    """

    multiple_of: Annotated[int, Field(ge=1)] = 1  # of the channels that stay; 8 or 16 suit vector units
    exact: bool = False  # only groups whose cut computes what zeroing would (no norm or mean over the channels)
    shrink: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay the doomed during the first half of training, then cut; e.g. 0.02

    @model_validator(mode="after")
    def _training_for_shrink(self) -> Self:
        if self.shrink is not None and (self.training is None or self.rounds > 1):
            raise ValueError("shrink cuts within one training: give training, and leave rounds at 1")
        return self

    def __call__(self, program: Program, context: Context) -> Program:
        """Cut in place."""
        return prune(program, Work(self, self._is_filter, "filter", self.multiple_of, self.shrink), context)

    def _is_filter(self, group: Group) -> bool:
        return not group.heads and (group.exact or not self.exact)
