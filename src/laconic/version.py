"""The version of this package, written on every receipt."""

__version__ = "0.1.0"
