"""From a budget to a recipe."""

from laconic.search.ladder import Rung, ladder
from laconic.search.shrink import check_budget, shrink

__all__ = ["Rung", "check_budget", "ladder", "shrink"]
