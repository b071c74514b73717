"""The user's own functions, named as text: `file.py:function` or `package.module:function`, with options as a URL query."""

import importlib
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

from pydantic import TypeAdapter, ValidationError

from laconic.errors import LaconicError, unknown


def import_object(spec: str, kind: str) -> object:
    """Import what `spec` names.

    The folder of the file (or, for a package, the working folder) is added at the end of `sys.path`, so that the user's modules find
    each other.

    Args:
        spec: `path/to/file.py:name` or `package.module:name`.
        kind: what the object is to the user, for messages: "model", "data set".

    Raises:
        LaconicError: there is no such file, module or name, or importing it fails; with the user's file and line.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise LaconicError(f"the {kind} {spec!r} must be written file.py:name or package.module:name")
    module = _from_file(Path(place).expanduser(), kind) if place.endswith(".py") else _from_package(place, kind)
    if not hasattr(module, name):
        raise unknown(f"{kind} in {place}:", name, [known for known in vars(module) if not known.startswith("_")])
    found: object = getattr(module, name)
    return found


def call(spec: str, kind: str) -> object:
    """Import the function that `spec` names and call it with the options behind its `?`; without any, it gets no arguments.

    Raises:
        LaconicError: as `import_object` and `options`; it is not callable; or what it raises, with the user's file and line.
    """
    place, _, query = spec.partition("?")
    function = import_object(place, kind)
    if not callable(function):
        raise LaconicError(f"the {kind} {place} must be a function without arguments; it is a {type(function).__name__}")
    arguments = options(function, query, place)
    with told(f"the {kind} {place}", place.rpartition(":")[0]):
        return function(**arguments)


def options(function: Callable[..., object], query: str, owner: str) -> dict[str, Any]:
    """Read `size=32&mean=128` as arguments of `function`, by its annotations; its positional-only parameters are no options.

    Where it takes `**settings`, any other name is an option too: a number, true, false or null as in JSON, or else text.

    Args:
        function: whose parameters are the options.
        query: what stands behind the `?`; may be empty.
        owner: whose options they are, for messages.

    Raises:
        LaconicError: an option that there is not, or a value that its annotation does not take.
    """
    if not query:
        return {}
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = {parameter.name: parameter.annotation for parameter in parameters if parameter.kind in named}
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise LaconicError(f"options of {owner} are written name=value&name=value; got {query!r}") from None
    return {name: _literal(text) if takes_any and name not in known else _value(name, text, known, owner) for name, text in given}


def _literal(text: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value


def _value(name: str, text: str, known: dict[str, Any], owner: str) -> object:
    if not known:
        raise LaconicError(f"{owner} has no options; got {name}={text}")
    if name not in known:
        raise unknown(f"option of {owner}:", name, known)
    try:
        value: object = TypeAdapter(Any if known[name] is inspect.Parameter.empty else known[name]).validate_python(text)
    except ValidationError as error:
        raise LaconicError(f"{owner} cannot take {name}={text}: {error.errors()[0]['msg']}; its options: {', '.join(known)}") from None
    return value


def _from_file(path: Path, kind: str) -> ModuleType:
    if not path.is_file():
        raise LaconicError(f"no file {path.absolute()} to import the {kind} from")
    _reachable(path.absolute().parent)
    name = f"_laconic_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path.absolute())
    assert found is not None  # the suffix is .py
    assert found.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    with told(f"importing {path}", str(path)):
        found.loader.exec_module(module)
    return module


def _from_package(place: str, kind: str) -> ModuleType:
    _reachable(Path.cwd())
    with told(f"importing {place} for the {kind}", place):
        return importlib.import_module(place)


def _reachable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@contextmanager
def told(what: str, place: str) -> Iterator[None]:
    """Turn what the user's code raises into a LaconicError that says where, preferring the frames in `place`."""
    try:
        with redirect_stdout(sys.stderr):  # standard output is for results
            yield
    except LaconicError:
        raise
    except (Exception, SystemExit) as error:
        raise LaconicError(f"{what} failed{_where(error, place)}: {type(error).__name__}: {error}") from error


def _where(error: BaseException, place: str) -> str:
    if isinstance(error, SyntaxError):
        return f" at {error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    theirs = [frame for frame in frames if frame.filename.endswith(Path(place).name)]
    outside = [frame for frame in frames if frame.filename != __file__]
    return next((f" at {frame.filename}:{frame.lineno}" for frame in reversed(theirs or outside)), "")
