"""Runtimes: each module writes a program to a file (`export`), says what it keeps as such (`KEEPS`) and opens files (`load`)."""

import importlib
import importlib.util
from types import ModuleType

from laconic.errors import unknown

__all__ = ["NAMES", "installed", "runtime"]

NAMES = ("onnxruntime",)


def runtime(name: str) -> ModuleType:
    """Return the runtime's module.

    Raises:
        LaconicError: there is no such runtime.
    """
    if name not in NAMES:
        raise unknown("runtime", name, NAMES)
    return importlib.import_module(f"laconic.runtimes.{name}")


def installed() -> list[str]:
    """Return the names of the runtimes whose packages are there."""
    return [name for name in NAMES if importlib.util.find_spec(runtime(name).PACKAGE) is not None]
