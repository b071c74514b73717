"""Tuning: training that changes no structure."""

from laconic.tune.fine import FineTune

__all__ = ["FineTune"]
