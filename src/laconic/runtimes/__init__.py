"""Runtimes: each module writes a program to a file (`export`), says what it keeps as such (`KEEPS`) and opens files (`load`)."""

import importlib
import importlib.util
from types import ModuleType

from laconic.errors import LaconicError, unknown

__all__ = ["FASTEST", "NAMES", "PACKED", "candidates", "installed", "runtime"]

NAMES = ("onnxruntime", "openvino")  # these compete for speed
PACKED = "lac"  # this one for bytes alone
FASTEST = "fastest"  # whichever of those that are installed


def runtime(name: str) -> ModuleType:
    """Return the runtime's module.

    Raises:
        LaconicError: there is no such runtime, or its package is not installed.
    """
    if name not in (*NAMES, PACKED):
        raise unknown("runtime", name, (*NAMES, PACKED))
    module = _module(name)
    if not _is_installed(module):
        raise LaconicError(f"the {name} runtime needs the package {module.PACKAGE}: pip install 'laconic[{name}]'")
    return module


def installed() -> list[str]:
    """Return the names of the runtimes that compete for speed and whose packages are there."""
    return [name for name in NAMES if _is_installed(_module(name))]


def candidates(name: str) -> list[str]:
    """Return the runtimes that a user's choice allows: the one of that name, or for "fastest" all that compete and are installed.

    Raises:
        LaconicError: there is no such runtime, or its package is not installed.
    """
    if name == FASTEST:
        return installed()
    if name not in (*NAMES, PACKED):
        raise unknown("runtime", name, (*NAMES, PACKED, FASTEST))
    runtime(name)
    return [name]


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"laconic.runtimes.{name}")


def _is_installed(module: ModuleType) -> bool:
    return importlib.util.find_spec(module.PACKAGE) is not None
