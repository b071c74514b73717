"""Head pruning: remove whole attention heads.

Source: P. Michel, O. Levy, G. Neubig, "Are Sixteen Heads Really Better than One?", NeurIPS 2019, section 4; heads are the factor of the
query, key and value channels that attention treats as a batch, found by the axis algebra of `program.groups`.
"""

from laconic.context import Context
from laconic.program import Program
from laconic.prune.structured import Structured, Work, prune
from laconic.step import step


@step
class Heads(Structured):
    """Remove the least important attention heads, and refit the layer that reads them.

    Smaller and faster. Where queries share a key and value head, these heads are one group and the queries of each another.
    """

    def __call__(self, program: Program, context: Context) -> Program:
        """Cut in place."""
        return prune(program, Work(self, lambda group: group.heads, "attention head"), context)
