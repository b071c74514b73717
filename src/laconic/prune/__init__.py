"""Pruning: weights that are zero, structures that are gone."""

from laconic.prune.magnitude import Magnitude

__all__ = ["Magnitude"]
