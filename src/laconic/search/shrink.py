"""Shrink: find the cheapest recipe that meets a budget as measured on its file, and deliver it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from laconic.deliver import Delivery, Exported, Say, deliver, export_each, export_packed, fastest_float, score, timed
from laconic.errors import LaconicError, NotApplicableError, UnreachableError
from laconic.job import Job
from laconic.program import clone, weights
from laconic.receipt import Attempt, Budget, Receipt, missed
from laconic.recipe import Compressed, PlainRecipe, apply, parse, plain
from laconic.runtimes import PACKED, candidates
from laconic.search.ladder import BEYOND_INTEGERS, INTEGERS, PACKINGS, STRUCTURES, Rung, ladder, packings, structural
from laconic.search.reference import Reference
from laconic.store import Store, key


@dataclass(frozen=True)
class _Tried:
    attempt: Attempt
    compressed: Compressed
    exported: Exported


def check_budget(budget: Budget) -> None:
    """Find limits that no network can meet or that ask for nothing.

    Raises:
        LaconicError: names the limit.
    """
    positive = {
        "--smaller": budget.smaller,
        "--faster": budget.faster,
        "--max-bytes": budget.max_bytes,
        "--max-latency-ms": budget.max_latency_ms,
    }
    for option, value in positive.items():
        if value is not None and value <= 0:
            raise LaconicError(f"{option} must be above 0; got {value}")
    if budget.max_drop is not None and not 0 <= budget.max_drop <= 100:
        raise LaconicError(f"--max-drop is in percentage points, from 0 to 100; got {budget.max_drop}")


def shrink(job: Job, budget: Budget, out: Path, store: Store, runtime: str, say: Say, epochs: int = 3) -> Receipt:
    """Try the ladder's recipes, cheapest first, until one meets the budget on its file; deliver it, or the best there was.

    Selection looks at the validation split only. The delivered file is then measured on the test split, and `met` on the receipt
    is the verdict there.

    Args:
        job: network and data.
        budget: the limits.
        out: folder of the artifact and its receipt.
        store: finished work; found there, it is not done again.
        runtime: what executes the artifact; "fastest": whichever makes it fastest within the rest of the budget.
        say: told each result as it comes.
        epochs: of recipes that train.
    """
    baseline, trainable = fastest_float(job, store, say), job.splits.train is not None
    reference = Reference(baseline, job, store, say)

    def attempt(rung: Rung) -> _Tried | None:
        say(rung.name)
        try:
            done = _try(rung, reference, budget, candidates(runtime))
        except (NotApplicableError, UnreachableError) as error:
            say(f"      does not apply: {error}")
            return None
        say(f"      {_words(done.attempt)}")
        return done

    entries = sum(weight.value.numel() for weight in weights(job.program))
    baseline_bytes = baseline.file.path.stat().st_size
    packed = packings(budget, baseline_bytes, entries, trainable, epochs)
    tried = list[_Tried]()
    for stage in _order(runtime, packed, baseline_bytes):
        if any(not one.attempt.missed for one in tried):
            break
        rungs = packed
        if stage == INTEGERS:
            rungs = ladder(budget, trainable, epochs)
        elif stage == STRUCTURES:
            executed = [one for one in tried if one.exported.file.runtime != PACKED]
            reached = min(executed, key=lambda one: shortfall(one.attempt, budget), default=None)
            rungs = structural(budget, reached.attempt, trainable, epochs) if reached else []
        tried += climb(rungs, attempt, budget)
    if not tried:
        raise LaconicError("no recipe of the ladder applies to this network; give a recipe of your own to `laconic compress`")
    best = min(tried, key=lambda one: shortfall(one.attempt, budget))
    attempts = tuple(one.attempt for one in tried)
    return deliver(Delivery(job, baseline, best.exported, best.compressed, best.attempt.recipe, budget, attempts), out, store, say)


def _order(runtime: str, packed: Sequence[Rung], baseline_bytes: int) -> tuple[str, ...]:
    """Return the kinds of rungs in the order in which they are tried: packed files last, or first where integers come nowhere near."""
    if runtime == PACKED:
        return (PACKINGS, INTEGERS)
    is_far = bool(packed) and baseline_bytes > BEYOND_INTEGERS * (packed[0].max_bytes or 1)
    return (PACKINGS, INTEGERS, STRUCTURES) if is_far else (INTEGERS, STRUCTURES, PACKINGS)


def climb(rungs: Sequence[Rung], attempt: Callable[[Rung], _Tried | None], budget: Budget) -> list[_Tried]:
    """Try rungs in order until one meets the budget, leaving out those that cannot: returns what was tried.

    Rungs of integers, and of packed files, differ in accuracy only: when size or speed is missed, the others miss it too. Rungs that
    remove structures remove more one after the other: when one loses too much accuracy, so do the later ones of its kind. Training
    changes neither size nor speed, so these are measured before it; where every rung misses them, the one that comes nearest is trained.
    """
    tried, hopeless, waiting, trained = list[_Tried](), set[str](), list[tuple[float, Rung]](), False
    for rung in rungs:
        done = None if rung.kind in hopeless else attempt(rung.untrained or rung)
        if done is None:
            continue
        tried.append(done)
        if rung.untrained and done.attempt.missed:
            if _misses_more_than_accuracy(done.attempt, budget):
                waiting.append((shortfall(done.attempt, replace(budget, max_drop=None))[-1], rung))
                continue
            if (done := attempt(rung)) is None:
                continue
            tried.append(done)
            trained = True
        if not done.attempt.missed:
            return tried
        too_little = _misses_more_than_accuracy(done.attempt, budget)
        if (too_little and _alike(rung)) if rung.kind in (INTEGERS, PACKINGS) else _loses(done.attempt, budget):
            hopeless.add(rung.kind)
    if waiting and not trained and (done := attempt(min(waiting, key=lambda each: each[0])[1])):
        tried.append(done)
    return tried


def _alike(rung: Rung) -> bool:
    """Say whether the other rungs of its kind are as small and as fast."""
    return bool(rung.recipe) or rung.kind == PACKINGS


def _loses(attempt: Attempt, budget: Budget) -> bool:
    return budget.max_drop is not None and attempt.drop_points > budget.max_drop


def _misses_more_than_accuracy(attempt: Attempt, budget: Budget) -> bool:
    return len(attempt.missed) > _loses(attempt, budget)


def _try(rung: Rung, reference: Reference, budget: Budget, runtimes: Sequence[str]) -> _Tried:
    """Apply a recipe, and return its file for the runtime that executes it fastest without missing more of the rest of the budget."""
    job, store = reference.job, reference.store
    steps = parse(rung.recipe) if rung.recipe else []
    compressed = apply(clone(job.program), steps, job.context, store)
    name = f"artifact-{key(job.model_hash, job.data_hash, job.origin.seed, plain(steps))}"
    if rung.max_bytes is None:
        files = export_each(compressed.program, name, runtimes, job, store, reference.say)
    else:
        files = [export_packed(compressed.program, name, rung.max_bytes, job, store)]
    tried = [_Tried(_measured(file, rung, plain(steps), reference, budget), compressed, file) for file in files]
    rest = replace(budget, faster=None, max_latency_ms=None)
    return min(tried, key=lambda one: (len(_missed(one.attempt, rest)), one.attempt.latency_ms))


def _measured(exported: Exported, rung: Rung, recipe: PlainRecipe, reference: Reference, budget: Budget) -> Attempt:
    job, store, baseline = reference.job, reference.store, reference.baseline
    accuracy = score(exported.file, job.splits.validation, "validation", job, store)["top1"]
    wanted, is_control = reference.of(rung)
    times = timed(baseline.file, exported.file, job, store, seconds=2.0)
    sizes = [side.file.path.stat().st_size for side in (baseline, exported)]
    drop, smaller, faster = 100 * (wanted - accuracy), sizes[0] / sizes[1], times["ratio"]["median"]
    control = wanted if is_control else None
    attempt = Attempt(rung.name, recipe, drop, smaller, faster, sizes[1], 1e3 * times["after"]["median"], (), control)
    return replace(attempt, missed=_missed(attempt, budget))


def _missed(attempt: Attempt, budget: Budget) -> tuple[str, ...]:
    return missed(budget, attempt.drop_points, attempt.smaller, attempt.faster, attempt.file_bytes, attempt.latency_ms)


def _words(attempt: Attempt) -> str:
    verdict = "meets the budget" if not attempt.missed else "misses: " + "; ".join(attempt.missed)
    return f"{attempt.smaller:.2f}x smaller, {attempt.faster:.2f}x faster, {attempt.drop_points:+.2f} points lost on validation: {verdict}"


def shortfall(attempt: Attempt, budget: Budget) -> tuple[int, int, float]:
    """Rank attempts: fewest limits missed first, then by how far the missed ones are off, each as a share of its limit.

    Accuracy that was compared with a control is an upper bound of what is lost on new examples (see `search.reference`), so that it is
    missed comes behind all that is certain.
    """
    uncertain = attempt.control is not None and _loses(attempt, budget)
    over = [
        (attempt.drop_points - budget.max_drop) / max(budget.max_drop, 1.0) if budget.max_drop is not None else 0.0,
        budget.smaller / attempt.smaller - 1 if budget.smaller else 0.0,
        budget.faster / attempt.faster - 1 if budget.faster else 0.0,
        attempt.file_bytes / budget.max_bytes - 1 if budget.max_bytes else 0.0,
        attempt.latency_ms / budget.max_latency_ms - 1 if budget.max_latency_ms else 0.0,
    ]
    return len(attempt.missed) - uncertain, len(attempt.missed), sum(max(0.0, share) for share in over)
