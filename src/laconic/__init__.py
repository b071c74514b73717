"""A trained neural network, a way to score it and a budget in; a smaller, faster network with a measured receipt out.

Four verbs: `compress` (a model and steps in, a program out), `laconic.measure` (a callable and data in, numbers out), `export` (a program
in, a file out) and `load` (a file in, a callable on arrays out). `laconic shrink` on the command line finds the steps for a budget.
"""

import importlib
from typing import TYPE_CHECKING, Any

from laconic.version import __version__

if TYPE_CHECKING:
    from laconic.context import Context
    from laconic.data import Dataset, Split, Splits, split
    from laconic.errors import LaconicError
    from laconic.recipe import compress
    from laconic.verbs import export, load

_WHERE = {
    "Context": "context",
    "Dataset": "data",
    "LaconicError": "errors",
    "Split": "data",
    "Splits": "data",
    "compress": "recipe",
    "export": "verbs",
    "load": "verbs",
    "split": "data",
}

__all__ = ["Context", "Dataset", "LaconicError", "Split", "Splits", "__version__", "compress", "export", "load", "split"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that a process that only runs a file does not load torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'laconic' has no attribute {name!r}")
    return getattr(importlib.import_module(f"laconic.{_WHERE[name]}"), name)
