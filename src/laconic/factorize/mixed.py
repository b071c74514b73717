"""For each layer the way that loses least for what it saves: SVD, spatial, Tucker, CP, or left whole.

Source: the ways cite theirs; that ranks are shared out by dynamic programming over measured curves, as bits are in `quantize.Mixed`,
follows the multiple-choice knapsack cited in `numeric.allocation`.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from laconic.context import Context
from laconic.factorize.channels import Channels
from laconic.factorize.cp import Depthwise
from laconic.factorize.factorized import Factorized, factorize
from laconic.factorize.recurrent import Inflow
from laconic.factorize.svd import Spatial
from laconic.factorize.tables import Narrower
from laconic.factorize.tucker import TwoBases
from laconic.factorize.ways import Way
from laconic.program import Program
from laconic.step import step

Kind: TypeAlias = Literal["svd", "spatial", "tucker", "cp"]

WAYS: dict[Kind, tuple[Way, ...]] = {
    "svd": (Channels(), Narrower(), Inflow()),
    "spatial": (Spatial(),),
    "tucker": (TwoBases(),),
    "cp": (Depthwise(),),
}


@step
class Mixed(Factorized):
    """Take layers apart, each in the way and as far as the budget is best spent.

    Smaller and faster: every way's ranks are compared by what they cost, in the unit of the budget, and by the error that they make.
    """

    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("svd", "spatial", "tucker")  # ways to choose from; cp takes long to fit

    def __call__(self, program: Program, context: Context) -> Program:
        """Take apart in place."""
        return factorize(program, self, [way for kind in self.kinds for way in WAYS[kind]], context)
