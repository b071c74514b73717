"""The receipt: what was measured of the network before and after, where, and from what.

Accuracies are shares in [0, 1], of language models those of the next tokens, of networks that are scored against their own float outputs
the mean cosine with these, of segmentation the mean intersection over union (IoU), of detection the mean average precision (AP); drops
are percentage points, times are seconds, sizes are bytes; a meter that is absent is None.
"""

from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from laconic.errors import LaconicError
from laconic.files import write_text
from laconic.measure.latency import Interval as Interval  # part of the receipt, exported here as well

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True)
def _plain(cls: type[_Class]) -> type[_Class]:
    decorate: Any = dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
    made: type[_Class] = decorate(cls)
    return made


_Rare: TypeAlias = Annotated[float | None, Field(exclude_if=lambda value: value is None)]
"""A field that is written only where it applies."""


@_plain
class Layer:
    """One layer that holds parameters, before and after."""

    name: str
    kind: str  # the operation: conv2d, linear, ...
    parameters_before: int
    parameters_after: int
    nonzero_after: int
    macs_before: int
    macs_after: int
    bytes_before: int
    bytes_after: int
    seconds_before: float | None = None  # of one example, with what follows the layer, by the runtime's profile; None: not told
    seconds_after: float | None = None

    @property
    def pays(self) -> bool | None:
        """Whether at least half of what went from its multiply-accumulates shows in its time; None: nothing went, or no time is known.

        A layer with r times fewer multiply-accumulates pays when it is (1 + r) / 2 times as fast or more. One that is gone pays.
        """
        if not self.seconds_before or self.seconds_after is None or self.macs_after >= self.macs_before:
            return None
        if not self.macs_after or not self.seconds_after:
            return True
        return self.seconds_before / self.seconds_after >= (1 + self.macs_before / self.macs_after) / 2


@_plain
class Measurement:
    """One network, exported to one file, measured in a fresh process."""

    file: str
    runtime: str
    file_bytes: int
    parameters: int
    nonzero_parameters: int
    macs: int  # multiply-accumulates of one example
    accuracy: float  # top-1 on the test split, share in [0, 1]; or what else networks of this kind are scored by
    accuracy_top5: float | None  # None where there are 5 classes or fewer
    accuracy_per_class: dict[str, float]
    examples: int  # how many test examples were scored
    latency_seconds: Interval  # of one batch of 1
    throughput_batch: int  # examples per batch when throughput was measured
    throughput_per_second: float  # examples per second at that batch
    peak_memory_bytes: int  # resident set of a fresh process that loads the file and runs it at batch 1
    joules: float | None  # per example at batch 1; None: no meter
    perplexity: _Rare = None  # of a language model on the test split
    lowest_cosine: _Rare = None  # of a test example with what the float network gives, where that is what is scored against
    pixel_accuracy: _Rare = None  # of segmentation: the share of pixels whose class is found; its accuracy is the mean IoU of the classes
    strict_precision: _Rare = None  # of detection: mean AP over IoU from 0.5 to 0.95; its accuracy is the mean AP at IoU 0.5
    decode_seconds: _Rare = None  # of a .lac file into arrays, compiled where numba is there
    named_bytes: int | None = None  # of named.lac: the same network with its architecture's name in place of its graph
    decode_memory_bytes: _Rare = None  # largest resident set of a fresh process that decodes it, without torch


@_plain
class Ratios:
    """How many times smaller and faster the artifact is; above 1 is better."""

    smaller: float  # file bytes before / after
    faster: Interval  # latency before / after at batch 1, paired and interleaved
    throughput: float


@_plain
class Budget:
    """What was asked for; None: not asked."""

    max_drop: float | None = None  # percentage points of accuracy
    smaller: float | None = None  # file bytes before / after, at least
    faster: float | None = None  # latency before / after, at least
    max_bytes: int | None = None
    max_latency_ms: float | None = None


def missed(budget: Budget, drop_points: float, smaller: float, faster: float, file_bytes: int, latency_ms: float) -> tuple[str, ...]:
    """Say which limits of a budget a network misses, in words; empty when it meets the budget.

    Ratios and times are judged by their medians.

    >>> missed(Budget(max_drop=0.5, smaller=4), drop_points=0.2, smaller=3.7, faster=2.0, file_bytes=9, latency_ms=1.0)
    ('3.7x smaller, at least 4x asked',)
    """
    limits = (
        (budget.max_drop, drop_points, 1, "{:.4g} points lost, at most {:.4g} allowed"),
        (budget.smaller, smaller, -1, "{:.4g}x smaller, at least {:.4g}x asked"),
        (budget.faster, faster, -1, "{:.4g}x faster, at least {:.4g}x asked"),
        (budget.max_bytes, file_bytes, 1, "{:,} bytes, at most {:,} allowed"),
        (budget.max_latency_ms, latency_ms, 1, "{:.4g} ms, at most {:.4g} ms allowed"),
    )
    return tuple(words.format(value, limit) for limit, value, sign, words in limits if limit is not None and _over(value, limit, sign))


def _over(value: float, limit: float, sign: int) -> bool:
    """Say whether a value is beyond its limit; floating-point numbers have a billionth of slack, counted bytes none."""
    return sign * (value - limit) > (0 if isinstance(limit, int) else 1e-9 * abs(limit))


@_plain
class JournalEntry:
    """One finished step: what it did to the program."""

    step: str  # as in a recipe: "prune.Magnitude"
    settings: dict[str, Any]
    seconds: float
    bytes_before: int  # of the program, every weight in its packed form
    bytes_after: int
    macs_before: int
    macs_after: int
    score_before: float  # on the validation split: share in [0, 1]; of a language model nats of log-likelihood per token, below 0
    score_after: float
    notes: tuple[str, ...] = ()


@_plain
class Attempt:
    """One recipe of the ladder, as measured on its file (validation split)."""

    name: str
    recipe: list[dict[str, dict[str, Any]]]
    drop_points: float  # validation accuracy lost, percentage points; negative: gained
    smaller: float
    faster: float
    file_bytes: int
    latency_ms: float
    missed: tuple[str, ...]  # which limits it misses, in words; empty: it meets the budget
    control: float | None = None  # validation accuracy of the whole network after the same training, where the drop is from that


@_plain
class Hashes:
    """SHA-256 of what went in and what came out."""

    model: str
    data: str
    artifact: str
    baseline: str


@_plain
class Receipt:
    """Everything claimed about one artifact."""

    before: Measurement
    after: Measurement
    ratios: Ratios
    drop_points: float  # test accuracy lost, percentage points; negative: gained
    budget: Budget
    met: bool
    missed: tuple[str, ...]  # limits that the artifact misses, in words
    recipe: list[dict[str, dict[str, Any]]]
    runtime: dict[str, str]  # name, version, threads, precision ...
    environment: dict[str, str]
    data: dict[str, Any]
    model: dict[str, Any]
    seed: int
    threads: int
    hashes: Hashes
    layers: tuple[Layer, ...]
    journal: tuple[JournalEntry, ...]
    attempts: tuple[Attempt, ...]
    command: str
    version: str


_adapter = TypeAdapter(Receipt)


def to_json(receipt: Receipt) -> str:
    """Return the receipt as indented JSON text."""
    return _adapter.dump_json(receipt, indent=2).decode() + "\n"


def write_receipt(receipt: Receipt, folder: Path) -> Path:
    """Write `receipt.json` into `folder` and return its path."""
    path = folder / "receipt.json"
    write_text(path, to_json(receipt))
    return path


def read_receipt(folder: Path) -> Receipt:
    """Read `folder/receipt.json`.

    Raises:
        LaconicError: there is none, or it is not a whole receipt.
    """
    path = folder / "receipt.json"
    if not path.is_file():
        raise LaconicError(f"no receipt at {path}: give the folder that `laconic shrink --out` or `laconic compress --out` wrote")
    try:
        return _adapter.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise LaconicError(f"{path} is not a whole receipt: {where or 'file'}: {first['msg']}") from None
