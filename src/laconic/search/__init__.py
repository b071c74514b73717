"""From a budget to a recipe."""

from laconic.search.ladder import Rung, ladder
from laconic.search.shrink import check_budget, shrink
from laconic.search.untrained import prepare_trained

__all__ = ["Rung", "check_budget", "ladder", "prepare_trained", "shrink"]
