"""Recipes: a list of steps, as plain data (YAML) and as what runs; and the engine that runs them and keeps the journal."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from torch import nn

from laconic import contract, distill, factorize, prune, quantize, share, tune
from laconic.context import Context
from laconic.data import fingerprint
from laconic.errors import LaconicError, unknown
from laconic.measure import macs
from laconic.program import Program, capture, clone, packed_bytes, weights
from laconic.program.lower import ALONE, is_word_kept
from laconic.program.select import KINDS
from laconic.receipt import JournalEntry
from laconic.step import Step, field_notes, settings, step_name
from laconic.store import Store, key
from laconic.train import describe
from laconic.version import __version__

FAMILIES: dict[str, ModuleType] = {
    "distill": distill,
    "factorize": factorize,
    "prune": prune,
    "quantize": quantize,
    "share": share,
    "tune": tune,
}
"""The families of techniques; `__all__` of each is its list of steps."""

PlainRecipe = list[dict[str, dict[str, Any]]]


def step_classes() -> dict[str, type]:
    """Return every step by its name in a recipe."""
    return {f"{family}.{name}": getattr(module, name) for family, module in sorted(FAMILIES.items()) for name in module.__all__}


def parse(plain: Any) -> list[Step]:
    """Turn a recipe from plain data into steps.

    Args:
        plain: a list of `{"family.Step": {setting: value}}`; a step without settings may be its name alone.

    Raises:
        LaconicError: the shape is another, a family, step or setting is unknown (with near matches), or a value is out of range.
    """
    if not isinstance(plain, list) or not plain:
        raise LaconicError(f"a recipe is a list of steps, each written `- family.Step: {{setting: value}}`; got {_kind(plain)}")
    return [_parse_step(position, entry) for position, entry in enumerate(plain, start=1)]


def read_recipe(path: Path) -> list[Step]:
    """Read a YAML recipe.

    Raises:
        LaconicError: no such file, not YAML, or not a recipe.
    """
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LaconicError(f"cannot read the recipe {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LaconicError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return parse(plain)


def plain(steps: Iterable[Step]) -> PlainRecipe:
    """Return steps as plain data, every setting written out; `parse` turns it back."""
    return [{step_name(step): settings(step)} for step in steps]


def read_files(steps: Iterable[Step]) -> list[str]:
    """Return the checksums of the files that steps read, such as weights of teachers: they are part of what a result depends on."""
    return [checksum for step in steps for checksum in getattr(step, "depends_on", [])]


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe."""
    steps = []
    definitions: dict[str, Any] = {}
    for name, cls in step_classes().items():
        described = TypeAdapter(cls).json_schema(ref_template="#/$defs/{model}")
        definitions |= described.pop("$defs", {})
        described["description"] = (cls.__doc__ or "").split("\n")[0]
        for field, note in field_notes(cls).items():
            described["properties"][field]["description"] = note
        steps.append({"type": "object", "properties": {name: described}, "required": [name], "additionalProperties": False})
        steps.append({"const": name})
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A Laconic recipe", "type": "array", "minItems": 1}
    return {**document, "items": {"anyOf": steps}, **({"$defs": definitions} if definitions else {})}


def compress(model: nn.Module, steps: Sequence[Step], context: Context, store: Store | None = None) -> "Compressed":
    """Capture `model` as a program, apply `steps` in order and return the result; `model` itself is left as it was.

    Args:
        model: the trained network.
        steps: callables from (program, context) to program.
        context: data, score and settings; its teacher, where it has none, is the network as it came.
        store: where finished steps are kept; a step that is found there is not run again.

    Raises:
        LaconicError: the model cannot be captured, a step trains and there is no training data, or a step breaks its contract.
    """
    check_needs(steps, context)
    return apply(capture(model, context.example()), steps, context, store)


@dataclass(frozen=True)
class Compressed:
    """A program with the journal of the steps that made it."""

    program: Program
    journal: tuple[JournalEntry, ...]


def apply(
    program: Program,
    steps: Sequence[Step],
    context: Context,
    store: Store | None = None,
    say: Callable[[str], None] | None = None,
    alone: bool = False,
) -> Compressed:
    """Apply `steps` in order to a captured program, telling `say` each step's name first; see `compress`.

    `alone`: without a teacher; what trains learns from labels alone.
    """
    check_patterns(program, steps)
    context = replace(context, teacher=None if alone else context.teacher or clone(program))
    name, journal = _start(program, context) if store else "", list[JournalEntry]()
    for step in steps:
        name = key(name, step_name(step), settings(step), *read_files([step]))
        if say:
            say(f"{step_name(step)}")
        program, entry = _finished(name, step, program, context, store)
        journal.append(entry)
    return Compressed(program, tuple(journal))


def _start(program: Program, context: Context) -> str:
    """Return a name made from everything that the first step's result depends on."""
    networks = [contract.fingerprint(each) for each in (program, context.teacher) if each is not None]
    return key(__version__, networks, fingerprint(context.splits), describe(context.score), context.seed)


def _finished(name: str, step: Step, program: Program, context: Context, store: Store | None) -> tuple[Program, JournalEntry]:
    kept = store.step(name) if store else None
    if kept is not None:
        return kept
    context = replace(context, notes=[], folder=store.checkpoints(name) if store else context.folder)
    program, entry = _run(step, program, context)
    if store:
        store.keep_step(name, program, entry)
    return program, entry


def _run(step: Step, program: Program, context: Context) -> tuple[Program, JournalEntry]:
    """Run one step, hold it to its contract and write its journal entry."""
    state, before, start = contract.state_of(program), _measured(program, context), time.perf_counter()
    program = step(program, context)
    seconds = time.perf_counter() - start
    contract.check(step_name(step), state, program, context)
    after = _measured(program, context)
    sizes = {f"{what}_{when}": value for when, row in (("before", before), ("after", after)) for what, value in row.items()}
    return program, JournalEntry(step_name(step), settings(step), seconds, notes=tuple(context.notes), **sizes)


def _measured(program: Program, context: Context) -> dict[str, Any]:
    score = context.score(program, context.splits.validation)
    return {"bytes": packed_bytes(program), "macs": macs(program, context.example()), "score": score}


def check_needs(steps: Iterable[Step], context: Context) -> None:
    """Find, before any work, steps that need what the data does not have.

    Raises:
        LaconicError: names the step.
    """
    for position, step in enumerate(steps, start=1):
        if getattr(step, "trains", False) and context.splits.train is None:
            lacking = "outputs are scored against the network's own" if context.splits.test.vectors else "the data has no training split"
            raise LaconicError(f"recipe step {position}, {step_name(step)}, trains, and {lacking}; use post-training steps only")


def check_patterns(program: Program, steps: Iterable[Step]) -> None:
    """Find, before any work, name patterns that match no layer of the network.

    Raises:
        LaconicError: names the step, the pattern and the layers there are.
    """
    for position, step in enumerate(steps, start=1):
        include, exclude, wide = (getattr(step, name, ()) for name in ("include", "exclude", "wide"))
        if include or exclude or wide:
            try:
                weights(program, include, exclude)
                weights(program, wide)
            except LaconicError as error:
                raise LaconicError(f"recipe step {position}, {step_name(step)}: {error}") from None


def not_kept(steps: Iterable[Step], keeps: frozenset[str], program: Program | None = None) -> list[str]:
    """Say, before any work, which forms that steps leave behind a runtime does not execute as such and so holds dense.

    Of a `program`, also the layers that no runtime executes with integer weights under float activations, such as convolutions.
    """
    found = []
    for step in steps:
        forms: frozenset[str] = getattr(step, "forms", frozenset())
        missing, alone = {form for form in forms if not is_word_kept(form, keeps)}, any(" weights" in form for form in forms)
        if missing:
            found.append(f"{step_name(step)}: {', '.join(sorted(missing))}")
        elif alone and program is not None:
            chosen = weights(program, getattr(step, "include", ()), getattr(step, "exclude", ()))
            dense = {kind for kind in KINDS if kind not in ALONE and not all(f"{form} of {kind}" in keeps for form in forms)}
            layers = [weight.name.rpartition(".")[0] for weight in chosen if weight.kind in dense]
            found += [f"{step_name(step)}: {', '.join(sorted(forms))} of {', '.join(layers)}"] if layers else []
    return found


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"an empty {type(value).__name__}" if value in ([], {}) else type(value).__name__


def _parse_step(position: int, entry: Any) -> Step:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise LaconicError(f"recipe step {position} must be one `family.Step: {{setting: value}}`; got {entry!r}")
    [(name, given)] = entry.items()
    cls = _step_class(position, str(name))
    if given is not None and not isinstance(given, dict):
        raise LaconicError(f"recipe step {position}, {name}, needs its settings as `{{setting: value}}`; got {given!r}")
    try:
        step: Step = TypeAdapter(cls).validate_python(given or {})
    except ValidationError as error:
        raise LaconicError(f"recipe step {position}, {name}: {_reasons(error, cls)}") from None
    return step


def _step_class(position: int, name: str) -> type:
    family, _, step = name.partition(".")
    if family not in FAMILIES:
        raise LaconicError(f"recipe step {position} names {name!r}: {unknown('family', family, FAMILIES)}")
    if step not in FAMILIES[family].__all__:
        raise LaconicError(f"recipe step {position} names {name!r}: {unknown(f'step of {family}', step, FAMILIES[family].__all__)}")
    return step_classes()[name]


def _reasons(error: ValidationError, cls: type) -> str:
    known = sorted(cls.__pydantic_fields__)  # type: ignore[attr-defined]
    return "; ".join(_reason(entry, known) for entry in error.errors())


def _reason(entry: Any, known: list[str]) -> str:
    where = ".".join(map(str, entry["loc"]))
    if entry["type"] == "unexpected_keyword_argument":
        return str(unknown("setting", where, known))
    message = entry["msg"].removeprefix("Value error, ")
    return f"{where}: {message}; got {entry['input']!r}" if where else message
