"""A progress bar on stderr, where a person watches; silent otherwise."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def bar(label: str | None, done: int, total: int) -> Iterator[Callable[[int, str], None]]:
    """Yield a function that shows how many steps of `total` are done and a text; `label` None: nothing is shown."""
    if label is None or not sys.stderr.isatty():
        yield lambda done, text: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total, completed=done, text="")
        yield lambda done, text: progress.update(task, completed=done, text=text)
