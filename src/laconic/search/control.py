"""What distillation gains: the same recipe on labels alone, beside what it did with a teacher, both on the validation split."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from statistics import mean

from laconic.deliver import Say
from laconic.distill import BornAgain
from laconic.errors import LaconicError
from laconic.job import Job
from laconic.program import clone
from laconic.recipe import apply
from laconic.step import Step, step_name
from laconic.store import Store
from laconic.tune import FineTune


@dataclass(frozen=True)
class Gain:
    """Validation scores of both arms, by seed: shares, or of language models nats below 0."""

    seeds: tuple[int, ...]
    taught: tuple[float, ...]
    alone: tuple[float, ...]

    @property
    def points(self) -> tuple[float, ...]:
        """What each seed gains, in hundredths."""
        return tuple(100 * (ours - theirs) for ours, theirs in zip(self.taught, self.alone, strict=True))

    def plain(self) -> dict[str, object]:
        """Return everything as plain data."""
        return {**asdict(self), "points": self.points, "mean_points": mean(self.points)}


def on_labels_alone(steps: Sequence[Step]) -> list[Step]:
    """Return the steps with those that teach replaced by training on labels, for as many epochs and in the same way.

    Raises:
        LaconicError: no step trains, or one is nothing without a teacher.
    """
    if not any(getattr(step, "trains", False) for step in steps):
        raise LaconicError("--control compares training with a teacher to training without: the recipe has no step that trains")
    return [_alone(step) for step in steps]


def _alone(step: Step) -> Step:
    if isinstance(step, BornAgain):
        raise LaconicError("--control: distill.BornAgain is nothing without a teacher; compare it with tune.FineTune of your own")
    if getattr(step, "trains", False) and step_name(step).startswith("distill."):
        return FineTune(**{field.name: getattr(step, field.name) for field in fields(FineTune) if field.init})
    return step


def gain(job: Job, steps: Sequence[Step], seeds: int, store: Store, say: Say) -> Gain:
    """Run a recipe with and without its teacher, seed by seed from the job's on; what was finished is not run again.

    Args:
        job: the network and its data; how these are cut is that of its own seed.
        steps: the recipe.
        seeds: how many.
        store: where finished steps are kept.
        say: is told what runs.

    Raises:
        LaconicError: see `on_labels_alone`.
    """
    plain, scores = on_labels_alone(steps), list[tuple[float, float]]()
    chosen = tuple(range(job.origin.seed, job.origin.seed + seeds))
    for seed in chosen:
        say(f"control, seed {seed}: with its teacher, and on labels alone")
        scores.append((_score(job, steps, seed, store, False), _score(job, plain, seed, store, True)))
    taught, alone = zip(*scores, strict=True)
    return Gain(chosen, taught, alone)


def _score(job: Job, steps: Sequence[Step], seed: int, store: Store, alone: bool) -> float:
    return apply(clone(job.program), steps, replace(job.context, seed=seed), store, alone=alone).journal[-1].score_after
