"""Inner loops that are compiled where numba is installed, and run as they are where it is not, to the same results."""

import importlib.util
from collections.abc import Sequence
from functools import cache
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any


@cache
def is_compiled() -> bool:
    """Say whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


@cache
def compiled(module: ModuleType, names: Sequence[str]) -> Any:
    """Return functions of a module as attributes, compiled if numba is there: each may call those named before it."""
    if not is_compiled():
        return SimpleNamespace(**{name: getattr(module, name) for name in names})
    import numba

    scope = dict(vars(module))
    for name in names:
        function = getattr(module, name)
        scope[name] = numba.njit(cache=True)(FunctionType(function.__code__, scope, name, function.__defaults__))
    return SimpleNamespace(**{name: scope[name] for name in names})
