"""Structured pruning measured: quality against torch-pruning, speed, cost, and the curve of mobilenet_v2.

    python benchmarks/pruning.py quality [resnet20 resnet56] [--rival PYTHON [--distilled]]   # PYTHON: one that has torch-pruning
    python benchmarks/pruning.py speed                   # idle machine, after quality
    python benchmarks/pruning.py records [NAME ...]      # idle machine, after quality; five seeds
    python benchmarks/pruning.py cost [--timm PYTHON]
    python benchmarks/pruning.py curve                   # mobilenet_v2, reconstruction alone

Run it from the repository's root; it needs LACONIC_DATA. `quality` takes hours on two cores and goes on where it was stopped: finished
trainings are kept under runs/pruning. ResNet-56's weights are kept in records/resnet56-cifar10-jpeg, with what `laconic measure --json`
says of them. They were made by two calls of `laconic train --model zoo:resnet56 --data cifar10-jpeg`: 26 epochs at 0.1,
then 20 more from there (--weights) at 0.06.

Both sides get the same weights, multiply-accumulates, training images, epochs and batches; three seeds each.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from records import record

DATA = Path(os.environ.get("LACONIC_DATA", "data"))
RUNS = Path("runs") / "pruning"
SEEDS = range(3)

WEIGHTS = {
    "resnet20": DATA / "weights/resnet20_cifar10_jpeg.safetensors",
    "resnet56": Path("records/resnet56-cifar10-jpeg/resnet56.safetensors"),
}
FEWER = {"resnet20": (2.1, 3.9), "resnet56": (2.0, 4.0)}  # times fewer multiply-accumulates
TRAINING = {"epochs": 4, "batch": 128, "learning_rate": 0.05, "schedule": "one-cycle", "weight_decay": 5e-4, "channels_last": True}


RECORDS = {  # network, times fewer multiply-accumulates, steps behind the recipe
    "resnet20-cifar10-jpeg-2x": ("resnet20", 2.1, []),
    "resnet56-cifar10-jpeg-4x": ("resnet56", 4.0, []),
    "resnet56-cifar10-jpeg-4x-int8": ("resnet56", 4.0, [{"quantize.Static": {}}]),
}


def recipe(network: str, fewer: float) -> list[dict[str, dict[str, Any]]]:
    """Return our recipe: filters refitted, or whole blocks of a deep network; then four epochs with the unpruned one as teacher.

    Where least squares has left little to repair, the learning rate is lower; chosen on a validation split.
    """
    step = "prune.Layers" if network == "resnet56" else "prune.Filters"
    gentler = {"learning_rate": 0.02} if step == "prune.Filters" and fewer < 3 else {}
    return [{step: {"macs": 1 / fewer}}, {"distill.Response": {**TRAINING, **gentler, "alpha": 0.9, "temperature": 4.0}}]


def ours(network: str, fewer: float, seed: int) -> dict[str, float]:
    """Prune and train with Laconic; accuracies on the test split, after reconstruction alone and after training."""
    import torch

    from laconic.job import Origin, prepare
    from laconic.measure import macs
    from laconic.program import clone
    from laconic.recipe import apply, parse
    from laconic.store import Store
    from laconic.train import top1

    torch.set_num_threads(1)
    job = prepare(Origin(f"zoo:{network}", "cifar10-jpeg", WEIGHTS[network], seed=seed), 1)
    store, steps = Store(folder(network, fewer, seed) / "work"), parse(recipe(network, fewer))
    pruned = apply(clone(job.program), steps[:1], job.context, store).program
    tuned = apply(clone(job.program), steps, job.context, store).program
    example = job.context.example()
    return {
        "fewer_macs": macs(job.program, example) / macs(tuned, example),
        "whole": top1(job.program, job.splits.test),
        "reconstructed": top1(pruned, job.splits.test),
        "trained": top1(tuned, job.splits.test),
    }


def rival(network: str, fewer: float, seed: int, distilled: bool) -> dict[str, float]:
    """Prune by torch-pruning's group norm and train with the same loop; runs in torch-pruning's environment."""
    import torch

    from laconic.zoo.timm import mend_torchvision

    mend_torchvision()
    import torch_pruning as tp

    from laconic import zoo
    from laconic.job import Origin, prepare
    from laconic.train import Training, cross_entropy, fit, response_loss, top1

    torch.set_num_threads(1)
    job = prepare(Origin(f"zoo:{network}", "cifar10-jpeg", WEIGHTS[network], seed=seed), 1)
    example, splits = job.context.example(), job.splits

    def pruned(ratio: float) -> Any:
        model = zoo.load(f"zoo:{network}", WEIGHTS[network]).eval()
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        tp.pruner.BasePruner(model, example, importance, pruning_ratio=ratio, global_pruning=False, ignored_layers=[model.fc]).step()
        return model

    whole = tp.utils.count_ops_and_params(zoo.load(f"zoo:{network}", WEIGHTS[network]).eval(), example)[0]
    low, high = 0.0, 1.0
    for _ in range(12):
        ratio = (low + high) / 2
        high, low = (ratio, low) if tp.utils.count_ops_and_params(pruned(ratio), example)[0] < whole / fewer else (high, ratio)
    model = pruned(low)  # the nearest that has at least as many
    result = {"fewer_macs": whole / tp.utils.count_ops_and_params(model, example)[0], "as_it_stands": top1(model, splits.test)}
    statistics = pruned(low).train()
    for module in statistics.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for inputs in job.context.calibration():
            statistics(inputs)
    result["statistics"] = top1(statistics.eval(), splits.test)
    loss = response_loss(job.program, 4.0, 0.9) if distilled else cross_entropy
    fit(model, splits.train, Training(**TRAINING), loss=loss, augment=splits.augment, seed=seed, folder=folder(network, fewer, seed))
    result["trained"] = top1(model, splits.test)
    return result


def folder(network: str, fewer: float, seed: int) -> Path:
    """Return where the work on one network is kept."""
    path = RUNS / f"{network}-{fewer:g}x-seed-{seed}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def quality(networks: list[str], python: str | None, distilled: bool) -> None:
    """Measure both sides on all seeds; every finished number is kept and not measured again."""
    sides = ["ours", *(["rival"] if python else []), *(["rival-distilled"] if python and distilled else [])]
    for network in networks:
        for fewer in FEWER[network]:
            rows = {side: [known(side, network, fewer, seed, python) for seed in SEEDS] for side in sides}
            print(f"\n{network}, {fewer:g} times fewer multiply-accumulates, test accuracy of {len(SEEDS)} seeds")
            for side, results in rows.items():
                for key in results[0]:
                    values = [row[key] for row in results]
                    print(f"  {side:16} {key:14} mean {mean(values):.4f}  spread {stdev(values):.4f}  worst {min(values):.4f}")


def known(side: str, network: str, fewer: float, seed: int, python: str | None) -> dict[str, float]:
    """Return one result from its file, or measure it in a process of its own."""
    path = folder(network, fewer, seed) / f"{side}.json"
    if not path.is_file():
        interpreter = sys.executable if side == "ours" else str(python)
        command = [interpreter, __file__, "one", side, network, str(fewer), str(seed), str(path)]
        subprocess.run(command, check=True)
    result: dict[str, float] = json.loads(path.read_text())
    return result


def one(side: str, network: str, fewer: float, seed: int, path: Path) -> None:
    """Measure one result and write it."""
    result = ours(network, fewer, seed) if side == "ours" else rival(network, fewer, seed, side == "rival-distilled")
    print(side, network, fewer, seed, result, flush=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def speed() -> None:
    """Time the pruned ResNet-56 of the first seed against the whole one, float32 and int8, interleaved, batch 16, one thread."""
    import numpy as np

    from laconic.job import Origin, prepare
    from laconic.measure import interleaved, ratio_interval
    from laconic.program import clone
    from laconic.recipe import apply, parse
    from laconic.runtimes import onnxruntime
    from laconic.store import Store

    job = prepare(Origin("zoo:resnet56", "cifar10-jpeg", WEIGHTS["resnet56"]), 1)
    store = Store(folder("resnet56", 4.0, 0) / "work")
    example, inputs = job.context.example(), job.splits.test.arrays(slice(0, 16))
    programs = {
        "whole": job.program,
        "pruned": apply(clone(job.program), parse(recipe("resnet56", 4.0)), job.context, store).program,
        "int8": apply(clone(job.program), parse([*recipe("resnet56", 4.0), {"quantize.Static": {}}]), job.context, store).program,
    }
    sessions = {}
    for name, program in programs.items():
        path = RUNS / f"resnet56-{name}.onnx"
        onnxruntime.export(program, example, path)
        sessions[name] = onnxruntime.load(path, 1)
    times = interleaved([lambda session=session: session(inputs) for session in sessions.values()], seconds=20.0)
    for name, column in zip(sessions, np.arange(len(sessions)), strict=True):
        ratio = ratio_interval(times[:, 0], times[:, column])
        milliseconds = 1e3 * float(np.median(times[:, column]))
        print(f"{name:8} {milliseconds:8.3f} ms  {ratio.median:.2f}x as fast as whole ({ratio.low:.2f} to {ratio.high:.2f})")


def records(names: list[str]) -> None:
    """Deliver the recipes with receipts, five seeds each; trainings that `quality` has finished are not done again."""
    for name in names:
        network, fewer, more = RECORDS[name]
        path = RUNS / f"{name}.yaml"
        steps = [*recipe(network, fewer), *more]
        path.write_text(yaml.safe_dump(steps, sort_keys=False))
        command = [
            "compress",
            "--recipe",
            str(path),
            "--model",
            f"zoo:{network}",
            "--weights",
            str(WEIGHTS[network]),
            "--data",
            "cifar10-jpeg",
        ]
        record(name, steps, lambda _, said=command: said, lambda seed, of=(network, fewer): folder(*of, seed))


def cost(python: str | None) -> None:
    """Print the seconds and memory of finding the groups of a network of 60 million parameters, and of cutting all of them."""
    code = """
import sys, time, resource, torch
from laconic import zoo
from laconic.program import capture
from laconic.program.cut import cut
from laconic.program.groups import find
torch.set_num_threads(1)
model = zoo.load("timm:resnet152", None)
size = sum(p.numel() for p in model.parameters())
program = capture(model, (torch.randn(2, 3, 224, 224),))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter(); found = find(program); groups = time.perf_counter() - start
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
keep = {group.name: range(0, group.channels, 2) for group in found.groups}
start = time.perf_counter(); cut(program, keep, found); halved = time.perf_counter() - start
print(f"{size / 1e6:.1f} M parameters, {len(found.groups)} groups found in {groups:.1f} s (limit 20), peak memory up by "
      f"{(after - before) / 1024:.0f} MB (the model has {4 * size / 2**20:.0f} MB), all halved in {halved:.1f} s (limit 5)")
"""
    subprocess.run([python or sys.executable, "-c", code], check=True)


def curve() -> None:
    """Print what mobilenet_v2 loses when filters go and least squares is all that recovers it; no training images."""
    import torch

    from laconic.job import Origin, prepare
    from laconic.measure import macs
    from laconic.program import clone
    from laconic.prune import Filters
    from laconic.train import top1

    torch.set_num_threads(1)
    job = prepare(Origin("zoo:mobilenet_v2", "imagenet-dev", DATA / "weights/mobilenet_v2_imagenet.safetensors"), 1)
    example = job.context.example()
    whole, before = macs(job.program, example), top1(job.program, job.splits.test)
    print(f"whole: {before:.4f} of {len(job.splits.test)} images")
    for share in (0.95, 0.9, 0.85, 0.8, 0.7):
        pruned = Filters(macs=share)(clone(job.program), job.context)
        after = top1(pruned, job.splits.test)
        print(
            f"{macs(pruned, example) / whole:.3f} of the multiply-accumulates: {after:.4f}, {100 * (before - after):.1f} points lost",
            flush=True,
        )


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("quality")
    asked.add_argument("networks", nargs="*")
    asked.add_argument("--rival", metavar="PYTHON")
    asked.add_argument("--distilled", action="store_true", help="also train what torch-pruning left with our teacher")
    commands.add_parser("speed")
    commands.add_parser("records").add_argument("names", nargs="*", choices=[*RECORDS, []], metavar="NAME")
    commands.add_parser("cost").add_argument("--timm", metavar="PYTHON")
    commands.add_parser("curve")
    single = commands.add_parser("one")
    for name, kind in {"side": str, "network": str, "fewer": float, "seed": int, "path": Path}.items():
        single.add_argument(name, type=kind)
    given = parser.parse_args()
    match given.command:
        case "quality":
            quality(given.networks or list(FEWER), given.rival, given.distilled)
        case "speed":
            speed()
        case "records":
            records(given.names or list(RECORDS))
        case "cost":
            cost(given.timm)
        case "curve":
            curve()
        case "one":
            one(given.side, given.network, given.fewer, given.seed, given.path)


if __name__ == "__main__":
    main()
