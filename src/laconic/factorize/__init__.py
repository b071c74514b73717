"""Low rank: one large layer becomes two or three small ones, where that is smaller or faster."""

from laconic.factorize.cp import CP
from laconic.factorize.gradual import Gradual
from laconic.factorize.mixed import Mixed
from laconic.factorize.svd import SVD
from laconic.factorize.tucker import Tucker

__all__ = ["CP", "SVD", "Gradual", "Mixed", "Tucker"]
