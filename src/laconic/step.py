"""What a step is: a frozen, validated configuration that is called with a program and a context and returns a program."""

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias, TypeVar, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from laconic.context import Context
from laconic.program import Program

Step: TypeAlias = Callable[[Program, Context], Program]
Patterns: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""Name patterns of layers (`fnmatch` syntax); one alone may be written without brackets."""

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def step(cls: type[_Class]) -> type[_Class]:
    """Make a class a step: a frozen dataclass whose fields are validated, with a JSON schema, called as `(program, context)`.

    A step that trains says so with `trains: ClassVar[bool] = True` (or a property, where its settings decide), so that missing training
    data is found before any work.
    """
    decorate: Any = dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
    made: type[_Class] = decorate(cls)
    return made


def field_notes(cls: type) -> dict[str, str]:
    """Return what the comments behind a step's fields say, by field, with those of its parents."""
    notes: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if "__pydantic_fields__" in vars(each):
            found = re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(each), re.MULTILINE)
            notes |= {name: note for name, note in found if name in cls.__pydantic_fields__}  # type: ignore[attr-defined]
    return notes


def step_name(step: Any) -> str:
    """Return a step's name in a recipe: its family and class, as `prune.Magnitude`."""
    cls = step if isinstance(step, type) or hasattr(step, "__qualname__") else type(step)
    parts = cls.__module__.split(".")
    family = parts[1] if parts[0] == "laconic" and len(parts) > 2 else cls.__module__
    return f"{family}.{cls.__qualname__}"


def settings(step: Any) -> dict[str, Any]:
    """Return a step's fields as plain data that YAML and JSON can hold."""
    if not hasattr(step, "__pydantic_fields__"):
        return {"callable": repr(step)}
    plain: dict[str, Any] = TypeAdapter(type(step)).dump_python(step, mode="json")
    return plain
