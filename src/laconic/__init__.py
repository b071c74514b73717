"""A trained neural network, a way to score it and a budget in; a smaller, faster network with a measured receipt out."""

from laconic.version import __version__

__all__ = ["__version__"]
