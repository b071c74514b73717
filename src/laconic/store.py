"""Content-addressed runs: a finished piece of work is kept under a name made from everything that went into it.

A run that was killed finds its finished pieces by those names and goes on; a run with other settings never finds a wrong one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from laconic.errors import LaconicError
from laconic.files import sha256, write_text
from laconic.program import Program, load, save
from laconic.receipt import JournalEntry


def key(*parts: Any) -> str:
    """Return a short name derived from the content of `parts` (anything JSON can hold): equal content, equal name.

    >>> key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Store:
    """A folder of finished pieces of work."""

    folder: Path

    def step(self, name: str) -> tuple[Program, JournalEntry] | None:
        """Return the program and journal entry that a finished step left under `name`, or None."""
        entry = self.folder / f"{name}.json"
        if not entry.is_file():
            return None
        try:
            return load(self.folder / f"{name}.safetensors"), _entries.validate_json(entry.read_bytes())
        except (LaconicError, ValidationError):  # damaged since: made again
            return None

    def keep_step(self, name: str, program: Program, entry: JournalEntry) -> None:
        """Keep a finished step; the entry is written last, so that a step is finished when its entry is there."""
        save(program, self.folder / f"{name}.safetensors")
        write_text(self.folder / f"{name}.json", _entries.dump_json(entry, indent=1).decode())
        shutil.rmtree(self.checkpoints(name), ignore_errors=True)

    def value(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the JSON value kept under `name`, making and keeping it first where there is none."""
        path = self.folder / f"{name}.json"
        with suppress(OSError, ValueError):  # absent, or damaged since: made again
            return json.loads(path.read_text(encoding="utf-8"))
        made = make()
        write_text(path, json.dumps(made, indent=1))
        return made

    def has_file(self, path: Path) -> bool:
        """Say whether a finished file of this store is there and unchanged."""
        try:
            return path.with_name(f"{path.name}.sha256").read_text(encoding="utf-8") == sha256(path)
        except OSError:
            return False

    def keep_file(self, path: Path) -> None:
        """Declare a file of this store finished: its checksum is written beside it, last."""
        write_text(path.with_name(f"{path.name}.sha256"), sha256(path))

    def checkpoints(self, name: str) -> Path:
        """Return the folder in which the unfinished work called `name` keeps its checkpoints."""
        return self.folder / f"{name}.unfinished"


_entries = TypeAdapter(JournalEntry)


def writable(folder: Path) -> Path:
    """Make sure, before any work, that files can be written into `folder`; returns it.

    Raises:
        LaconicError: it is a file, read-only, or its disk is full.
    """
    probe = folder / f".writable-{os.getpid()}"
    try:
        write_text(probe, "x" * 4096)
        probe.unlink()
    except (LaconicError, OSError) as error:
        reason = error.__cause__ or error
        raise LaconicError(
            f"cannot write into {folder}: {getattr(reason, 'strerror', None) or reason}; choose another --out or make room"
        ) from None
    return folder


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        LaconicError: there is none, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LaconicError(f"{path} cannot be read: {error}") from None
