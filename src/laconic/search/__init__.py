"""From a budget to a recipe."""

from laconic.search.control import Gain, gain, on_labels_alone
from laconic.search.ladder import Rung, ladder
from laconic.search.shrink import check_budget, shrink
from laconic.search.untrained import prepare_trained

__all__ = ["Gain", "Rung", "check_budget", "gain", "ladder", "on_labels_alone", "prepare_trained", "shrink"]
