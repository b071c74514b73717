"""Pruning: weights that are zero, structures that are gone."""

from laconic.prune.filters import Filters
from laconic.prune.gradual import Gradual
from laconic.prune.heads import Heads
from laconic.prune.layers import Layers
from laconic.prune.magnitude import Magnitude
from laconic.prune.movement import Movement
from laconic.prune.n_of_m import NofM
from laconic.prune.rounds import Rounds
from laconic.prune.sparse_gpt import SparseGPT
from laconic.prune.wanda import Wanda

__all__ = ["Filters", "Gradual", "Heads", "Layers", "Magnitude", "Movement", "NofM", "Rounds", "SparseGPT", "Wanda"]
