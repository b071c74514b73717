"""Verify: measure a delivered folder anew, in fresh processes, and compare with what its receipt claims."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from laconic import data, fresh
from laconic.data import Splits
from laconic.deliver import fastest_float
from laconic.errors import LaconicError
from laconic.files import sha256
from laconic.fresh import File
from laconic.job import Job, Origin, prepare
from laconic.measure import ratio_interval
from laconic.receipt import Receipt, missed, read_receipt
from laconic.runtimes import runtime
from laconic.store import Store

_FASTER = 0.25  # relative: another load on the machine, another processor of the same family
_MEMORY = 0.25  # relative: allocators and library versions
_COUNTS = 0.01  # relative: the file's constants are counted with its weights
_ACCURACY = 0.002  # share: rounding differs between processors


@dataclass(frozen=True)
class Check:
    """One claim and what was measured now."""

    name: str
    claimed: Any
    measured: Any
    tolerance: float  # relative for sizes, times and memory; absolute for accuracies (a share); 0: exactly equal
    ok: bool


@dataclass(frozen=True)
class Verdict:
    """All checks; ok when each is."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)


def verify(folder: Path, data_root: Path | None = None, threads: int | None = None) -> Verdict:
    """Measure the artifact in `folder` again and compare it with its receipt.

    Args:
        folder: where `receipt.json` and the artifact lie.
        data_root: where the data sets are; None: as on the receipt, then LACONIC_DATA.
        threads: of the runtime; None: as on the receipt.

    Raises:
        LaconicError: no receipt, no data, or a file that cannot be opened.
    """
    receipt = read_receipt(folder)
    threads = threads or receipt.threads
    artifact = folder / receipt.after.file
    if not artifact.is_file():
        raise LaconicError(f"the artifact {artifact} is missing; the folder is not whole")
    identity = [
        _equal("artifact sha256", receipt.hashes.artifact, sha256(artifact)),
        _equal("file_bytes", receipt.after.file_bytes, artifact.stat().st_size),
    ]
    if not all(check.ok for check in identity):
        return Verdict(
            tuple(identity)
        )  # another file than the one on the receipt: nothing measured on it would say anything about the claim
    with tempfile.TemporaryDirectory() as scratch:
        origin = _origin(receipt, data_root)
        baseline, splits, data_hash = _baseline(folder, receipt, origin, threads, Path(scratch))
        checks = [*identity, _equal("data sha256", receipt.hashes.data, data_hash)]
        checks += _measured(receipt, File(artifact, receipt.after.runtime), baseline, splits, threads)
    return Verdict(tuple(checks))


def _measured(receipt: Receipt, artifact: File, baseline: File, splits: Splits, threads: int) -> list[Check]:
    before, after = (fresh.score_file(file, splits.test, threads).top1 for file in (baseline, artifact))
    example = splits.calibration.arrays(slice(0, 1))
    times = fresh.time_files([baseline, artifact], example, threads, seconds=4.0)
    faster = ratio_interval(times[:, 0], times[:, 1]).median
    smaller = baseline.path.stat().st_size / artifact.path.stat().st_size
    counts = runtime(artifact.runtime).count(artifact.path)
    budget, latency_ms = receipt.budget, 1e3 * float(np.median(times[:, 1]))
    unmet = missed(budget, 100 * (before - after), smaller, faster, artifact.path.stat().st_size, latency_ms)
    return [
        _near("accuracy before", receipt.before.accuracy, before, _ACCURACY, relative=False),
        _near("accuracy after", receipt.after.accuracy, after, _ACCURACY, relative=False),
        _near("smaller", receipt.ratios.smaller, smaller, _COUNTS),
        _near("faster", receipt.ratios.faster.median, faster, _FASTER),
        _near("parameters", receipt.after.parameters, counts.parameters, _COUNTS),
        _near("nonzero_parameters", receipt.after.nonzero_parameters, counts.nonzero_parameters, _COUNTS),
        _near("macs", receipt.after.macs, counts.macs, _COUNTS),
        _near("peak_memory_bytes", receipt.after.peak_memory_bytes, fresh.peak_memory(artifact, example, threads), _MEMORY),
        _equal("budget met", receipt.met, not unmet),
    ]


def _origin(receipt: Receipt, data_root: Path | None) -> Origin:
    weights = receipt.model.get("weights")
    root = data_root or (Path(os.environ["LACONIC_DATA"]) if os.environ.get("LACONIC_DATA") else None)
    if weights and weights.startswith("$LACONIC_DATA/"):
        weights = str((root or Path("data")) / weights.removeprefix("$LACONIC_DATA/"))
    return Origin(receipt.model["name"], receipt.data["name"], Path(weights) if weights else None, root, receipt.seed)


def _baseline(folder: Path, receipt: Receipt, origin: Origin, threads: int, scratch: Path) -> tuple[File, Splits, str]:
    """Return the float network's file, from the folder or exported anew from the model and weights on the receipt, and the data."""
    kept = folder / receipt.before.file
    if kept.is_file():
        if sha256(kept) != receipt.hashes.baseline:
            raise LaconicError(
                f"{kept} is not the baseline on the receipt (another checksum); remove it and it is exported anew from the model"
            )
        dataset = data.load(origin.data, origin.data_root)
        return File(kept, receipt.before.runtime), data.split(dataset, origin.seed), data.fingerprint(dataset)
    job: Job = prepare(origin, threads)
    if job.model_hash != receipt.hashes.model:
        raise LaconicError(f"the model {origin.model} with weights {origin.weights} is not the one on the receipt (another checksum)")
    return fastest_float(job, Store(scratch)).file, job.splits, job.data_hash


def _equal(name: str, claimed: Any, measured: Any) -> Check:
    return Check(name, claimed, measured, 0.0, bool(claimed == measured))


def _near(name: str, claimed: float, measured: float, tolerance: float, relative: bool = True) -> Check:
    limit = tolerance * abs(claimed) if relative else tolerance
    return Check(name, claimed, measured, tolerance, abs(measured - claimed) <= limit + 1e-12)
