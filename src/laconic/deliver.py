"""From a program to a delivered folder: the exported file, measured against the float network in fresh processes, and its receipt."""

import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from laconic import data, fresh
from laconic.data import Split, Splits
from laconic.errors import LaconicError
from laconic.files import sha256, whole_file
from laconic.fresh import File
from laconic.job import Job, Origin, described, environment, portable, prepare
from laconic.measure import RARE, Accuracy, Interval, macs, macs_per_node, median_interval, rare, ratio_interval
from laconic.pack.network import NAMED, read_program, write_named
from laconic.program import Program, packed, save, weights
from laconic.program.lower import unsupported
from laconic.program.represent import represented
from laconic.receipt import Attempt, Budget, Hashes, Layer, Measurement, Ratios, Receipt, missed, write_receipt
from laconic.recipe import Compressed, PlainRecipe
from laconic.runtimes import PACKED, candidates, installed, lac, runtime
from laconic.store import Store, key
from laconic.version import __version__

Say: TypeAlias = Callable[[str], None]


def _silent(text: str) -> None:
    """Say nothing."""


THROUGHPUT_BATCH = 16
_SECONDS = 4.0  # of interleaved timing for a receipt


@dataclass(frozen=True)
class Exported:
    """A program and the file that a runtime executes."""

    program: Program
    file: File
    coding: str = ""  # of a packed file's weights that lost bits, in words


def export(program: Program, name: str, runtime_name: str, job: Job, store: Store) -> Exported:
    """Write `program` for a runtime into the store, or find it there."""
    module = runtime(runtime_name)
    path = store.folder / f"{name}-{key(__version__, runtime_name, module.version())}{module.SUFFIX}"
    if not store.has_file(path):
        written = module.export(program, job.context.example(), path)
        if runtime_name == PACKED:
            store.value(_bytes_name(path), lambda: written.tensor_bytes)
        store.keep_file(path)
    return Exported(program, File(path, runtime_name))


def export_packed(program: Program, name: str, max_bytes: int, job: Job, store: Store) -> Exported:
    """Write `program` into a packed file of at most so many bytes, or find it in the store; the program returned is what it decodes to.

    Raises:
        UnreachableError: the file is larger with all weights zero.
    """
    path = store.folder / f"{name}-{key(__version__, PACKED, max_bytes)}.lac"
    if not store.has_file(path):
        written = lac.export_within(program, job.context.example(), path, max_bytes)
        store.value(_bytes_name(path), lambda: written.tensor_bytes)
        store.keep_file(path)
    rate = 8 * path.stat().st_size / sum(weight.value.numel() for weight in weights(program))
    how = f"with loss, on one grid for all by a trellis of {lac.STATES} states: {rate:.3f} bits per weight, the whole file counted"
    return Exported(read_program(path), File(path, PACKED), how)


def _bytes_name(path: Path) -> str:
    """Name what is kept of a packed file beside it: the bytes of its tensors."""
    return f"{path.stem}-bytes"


def export_each(program: Program, name: str, runtimes: Sequence[str], job: Job, store: Store, say: Say) -> list[Exported]:
    """Write `program` for each of `runtimes`; those that refuse it are told and left out.

    Raises:
        LaconicError: the only one, or the last of all, refuses it.
    """
    done = list[Exported]()
    for number, runtime_name in enumerate(runtimes, 1):
        try:
            done.append(export(program, name, runtime_name, job, store))
        except LaconicError as error:
            if number == len(runtimes) and not done:
                raise
            say(f"      left out, {runtime_name}: {error}")
    return done


def fastest_float(job: Job, store: Store, say: Say = _silent) -> Exported:
    """Export the network as it came for every installed runtime, and return the fastest at batch 1: the baseline of every comparison."""
    return fastest(export_each(job.program, f"float-{job.model_hash[:16]}", installed(), job, store, say), job, store)


def fastest(files: Sequence[Exported], job: Job, store: Store) -> Exported:
    """Return the fastest at batch 1."""
    racing = [each.file for each in files]
    name = f"fastest-{key([(file.runtime, sha256(file.path)) for file in racing], job.threads)}"
    chosen: int = store.value(name, lambda: _first(racing, _example(job), job.threads))
    return files[chosen]


def _first(files: Sequence[File], example: NDArray[Any], threads: int) -> int:
    """Say which file is the fastest at batch 1, timed in turns in one fresh process."""
    return 0 if len(files) == 1 else int(np.median(fresh.time_files(files, example, threads), axis=0).argmin())


def score(file: File, split: Split, purpose: str, job: Job, store: Store) -> dict[str, Any]:
    """Score a file in a fresh process, once: the result is kept under the file's and the data's hashes."""
    name = f"score-{purpose}-{key(sha256(file.path), job.data_hash, job.origin.seed, file.runtime, job.origin.against)}"
    return dict(store.value(name, lambda: _plain(fresh.score_file(file, split, job.threads))))


def _plain(accuracy: Accuracy) -> dict[str, Any]:
    per_class = {str(number): share for number, share in accuracy.per_class.items()}
    shares = {"top1": accuracy.top1, "top5": accuracy.top5, "per_class": per_class, "examples": accuracy.examples}
    return {**shares, **rare(accuracy)}


def timed(before: File, after: File, job: Job, store: Store, batch: int = 1, seconds: float = _SECONDS) -> dict[str, Any]:
    """Time two files in turns in a fresh process, once: medians with intervals, and the interval of their paired ratio."""

    def measure() -> dict[str, Any]:
        times = fresh.time_files([before, after], _example(job), job.threads, batch, seconds)
        ratio = ratio_interval(times[:, 0], times[:, 1])
        return {"before": asdict(median_interval(times[:, 0])), "after": asdict(median_interval(times[:, 1])), "ratio": asdict(ratio)}

    hashes = [sha256(before.path), sha256(after.path)]
    return dict(store.value(f"time-{batch}-{key(hashes, job.threads, seconds, before.runtime, after.runtime)}", measure))


def _example(job: Job) -> NDArray[Any]:
    return job.splits.calibration.arrays(slice(0, THROUGHPUT_BATCH))


@dataclass(frozen=True)
class Delivery:
    """What is needed to write a receipt."""

    job: Job
    baseline: Exported
    artifact: Exported
    compressed: Compressed
    recipe: PlainRecipe
    budget: Budget = field(default_factory=Budget)
    attempts: tuple[Attempt, ...] = ()


def deliver(delivery: Delivery, out: Path, store: Store, say: Say) -> Receipt:
    """Measure the artifact on the test split, write it, its program and its receipt into `out`; returns the receipt."""
    job, before, after = delivery.job, delivery.baseline, delivery.artifact
    say("measuring both files on the test split, in fresh processes")
    single = timed(before.file, after.file, job, store)
    batched = timed(before.file, after.file, job, store, THROUGHPUT_BATCH)
    sides = [_measurement(side, name, single, batched, job, store) for side, name in ((before, "before"), (after, "after"))]
    sides[1] = replace(sides[1], named_bytes=_write_named(after, job, out))
    receipt = _receipt(delivery, sides[0], sides[1], single, batched, store)
    _copy(before.file.path, out / sides[0].file)
    _copy(after.file.path, out / sides[1].file)
    save(after.program, out / "program.safetensors", pack=True)
    write_receipt(receipt, out)
    return receipt


def _write_named(artifact: Exported, job: Job, out: Path) -> int | None:
    """Write a packed network that is still one of the zoo's a second time, under its architecture's name; returns the bytes."""
    (out / NAMED).unlink(missing_ok=True)
    if artifact.file.runtime != PACKED or artifact.coding or not job.origin.model.startswith("zoo:"):
        return None
    return write_named(artifact.program, job.origin.model, out / NAMED)


def _measurement(side: Exported, name: str, single: dict[str, Any], batched: dict[str, Any], job: Job, store: Store) -> Measurement:
    scored = score(side.file, job.splits.test, "test", job, store)
    names, counts = job.dataset.classes, runtime(side.file.runtime).count(side.file.path)
    latency = Interval(**single[name])
    return Measurement(
        file={"before": "baseline", "after": "model"}[name] + side.file.path.suffix,
        runtime=side.file.runtime,
        file_bytes=side.file.path.stat().st_size,
        parameters=counts.parameters,
        nonzero_parameters=counts.nonzero_parameters,
        macs=macs(side.program, job.context.example()),
        accuracy=scored["top1"],
        accuracy_top5=scored["top5"],
        accuracy_per_class={(names[int(i)] if int(i) < len(names) else i): share for i, share in scored["per_class"].items()},
        examples=scored["examples"],
        latency_seconds=latency,
        throughput_batch=THROUGHPUT_BATCH,
        throughput_per_second=THROUGHPUT_BATCH / batched[name]["median"],
        **{each: scored[each] for each in RARE if each in scored},
        **_resources(side.file, job, store),
    )


def _resources(file: File, job: Job, store: Store) -> dict[str, Any]:
    def measure() -> dict[str, Any]:
        example = _example(job)
        return _decoding(file) | {
            "peak_memory_bytes": fresh.peak_memory(file, example, job.threads),
            "joules": fresh.joules_per_example(file, example, job.threads),
        }

    return dict(store.value(f"resources-{key(sha256(file.path), job.threads, file.runtime)}", measure))


def _decoding(file: File) -> dict[str, Any]:
    """Return what decoding costs, of a file that is decoded."""
    return dict(zip(("decode_seconds", "decode_memory_bytes"), fresh.decoding(file), strict=True)) if file.runtime == PACKED else {}


def _receipt(
    delivery: Delivery, before: Measurement, after: Measurement, single: dict[str, Any], batched: dict[str, Any], store: Store
) -> Receipt:
    job, files = delivery.job, (delivery.baseline.file, delivery.artifact.file)
    faster, drop = Interval(**single["ratio"]), 100 * (before.accuracy - after.accuracy)
    smaller, latency_ms = before.file_bytes / after.file_bytes, 1e3 * after.latency_seconds.median
    unmet = missed(delivery.budget, drop, smaller, faster.median, after.file_bytes, latency_ms)
    model, described_data = described(job)
    baseline = f"{files[0].runtime}, {'as it came, quantized' if any(represented(delivery.baseline.program)) else 'float32'}"
    module = runtime(files[1].runtime)
    executed = {"name": files[1].runtime, "version": module.version(), "baseline": baseline}
    dense = Counter(note.rpartition(": ")[2] for note in unsupported(delivery.artifact.program, module.KEEPS))
    if files[1].runtime == PACKED:
        executed["executes"] = _smaller_only(delivery.artifact)
        executed |= {"coded": delivery.artifact.coding} if delivery.artifact.coding else {}
    if dense:
        executed["dense"] = ", ".join(f"{form} ({count})" for form, count in sorted(dense.items()))
    return Receipt(
        before=before,
        after=after,
        ratios=Ratios(smaller, faster, batched["ratio"]["median"]),
        drop_points=drop,
        budget=delivery.budget,
        met=not unmet,
        missed=unmet,
        recipe=delivery.recipe,
        runtime=executed,
        environment=environment(),
        data=described_data,
        model=model,
        seed=job.origin.seed,
        threads=job.threads,
        hashes=Hashes(job.model_hash, job.data_hash, sha256(files[1].path), sha256(files[0].path)),
        layers=layers(delivery.baseline, delivery.artifact, job, store),
        journal=delivery.compressed.journal,
        attempts=delivery.attempts,
        command=shlex.join(["laconic", *(portable(Path(word)) or word for word in sys.argv[1:])]),
        version=__version__,
    )


def _smaller_only(artifact: Exported) -> str:
    """Say what a decoded file computes with."""
    forms = Counter(form.name for _, each in represented(artifact.program) for form in each)
    kept = f" {', '.join(f'{form} ({count})' for form, count in sorted(forms.items()))}:" if forms else ""
    return f"smaller, not faster:{kept} decoded when the file is loaded, and computed in float32 by torch"


def layers(before: Exported, after: Exported, job: Job, store: Store) -> tuple[Layer, ...]:
    """Compare every layer of the network with what is left of it, by its weight's name; times are those of the files."""
    old, new = _layers(before, job, store), _layers(after, job, store)
    gone = {"parameters": 0, "nonzero": 0, "macs": 0, "bytes": 0, "kind": "", "seconds": 0.0}
    rows = []
    for name in [*old, *(name for name in new if name not in old)]:
        first, last = old.get(name, gone), new.get(name, gone)
        pairs = {
            f"{what}_{when}": row[what]
            for what in ("parameters", "macs", "bytes", "seconds")
            for when, row in (("before", first), ("after", last))
        }
        rows.append(Layer(name, first["kind"] or last["kind"], nonzero_after=last["nonzero"], **pairs))
    return tuple(rows)


def _layers(side: Exported, job: Job, store: Store) -> dict[str, dict[str, Any]]:
    counted, spent = macs_per_node(side.program, job.context.example()), _layer_seconds(side.file, job, store)
    in_file: dict[str, int] = store.value(_bytes_name(side.file.path), dict) if side.file.runtime == PACKED else {}

    def size(name: str) -> int:
        parts = [size for part, size in in_file.items() if part == name or part.startswith(f"{name}.")]
        return sum(parts) if parts else packed(side.program, name).bytes

    return {
        (name := weight.name.removesuffix(".weight")): {
            "kind": weight.kind,
            "parameters": weight.value.numel(),
            "nonzero": int(weight.value.count_nonzero()),
            "macs": sum(counted.get(reader.name, 0) for reader in weight.readers),
            "bytes": size(weight.name),
            "seconds": spent.get(name),
        }
        for weight in weights(side.program)
    }


def _layer_seconds(file: File, job: Job, store: Store) -> dict[str, float]:
    name = f"layers-{key(sha256(file.path), job.threads, file.runtime)}"
    return dict(store.value(name, lambda: fresh.layer_seconds(file, _example(job), job.threads)))


def _copy(source: Path, target: Path) -> None:
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)


def measure_alone(origin: Origin, runtime_name: str, threads: int) -> dict[str, Any]:
    """Measure one network on the test split in fresh processes: an exported file as it is, any other network after exporting it.

    Args:
        origin: the network and the data.
        runtime_name: what executes it; "fastest": whichever is.
        threads: of the runtime.

    Returns:
        The fields of a `Measurement` that apply, as plain data.
    """
    names = candidates(PACKED if Path(origin.model).suffix == runtime(PACKED).SUFFIX else runtime_name)
    with tempfile.TemporaryDirectory() as scratch:
        if Path(origin.model).suffix in {runtime(name).SUFFIX for name in names}:
            dataset = data.load(origin.data, origin.data_root)
            return _alone([File(Path(origin.model), name) for name in names], data.split(dataset, origin.seed), threads)
        job = prepare(origin, threads)
        exported = export_each(job.program, "network", names, job, Store(Path(scratch)), _silent)
        return _alone([each.file for each in exported], job.splits, threads)


def _alone(files: Sequence[File], splits: Splits, threads: int) -> dict[str, Any]:
    example = splits.calibration.arrays(slice(0, THROUGHPUT_BATCH))
    file = files[_first(files, example, threads)]
    single, batched = (fresh.time_files([file], example, threads, batch)[:, 0] for batch in (1, THROUGHPUT_BATCH))
    scored = fresh.score_file(file, splits.test, threads)
    return {
        "runtime": file.runtime,
        "file_bytes": file.path.stat().st_size,
        **asdict(runtime(file.runtime).count(file.path)),
        "accuracy": scored.top1,
        "accuracy_top5": scored.top5,
        **rare(scored),
        "examples": scored.examples,
        "latency_seconds": asdict(median_interval(single)),
        "throughput_batch": THROUGHPUT_BATCH,
        "throughput_per_second": THROUGHPUT_BATCH / median_interval(batched).median,
        "peak_memory_bytes": fresh.peak_memory(file, example, threads),
        **_decoding(file),
        "joules": fresh.joules_per_example(file, example, threads),
        "threads": threads,
        "accuracy_per_class": {str(number): share for number, share in scored.per_class.items()},
    }
