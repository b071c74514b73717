"""Pruning: weights that are zero, structures that are gone."""

from laconic.prune.filters import Filters
from laconic.prune.heads import Heads
from laconic.prune.layers import Layers
from laconic.prune.magnitude import Magnitude
from laconic.prune.sparse_gpt import SparseGPT
from laconic.prune.wanda import Wanda

__all__ = ["Filters", "Heads", "Layers", "Magnitude", "SparseGPT", "Wanda"]
