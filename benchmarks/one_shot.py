"""Pruning in one shot, without training: magnitude, Wanda and SparseGPT, with the same sparsity everywhere and by sensitivity.

    python benchmarks/one_shot.py [resnet20] [char_transformer] [--sparsities 0.5 0.7 0.8] [--seeds 0] [--steps Magnitude Wanda SparseGPT]
        [--allocations uniform sensitivity]

Run it from the repository's root; it needs LACONIC_DATA. No test split is read. resnet20 has the weights of the data folder and is scored
on 2,000 validation images, which are cut from the training images of cifar10-jpeg and were seen in training. char_transformer is that of
records/tinyshakespeare-char, scored on the validation part of the text, every fourth window, so that windows do not overlap. A seed
draws the 256 calibration images or 32 calibration windows, from training data, and the validation images. The embeddings of
char_transformer stay dense, one of which is the output layer too. Patterns leave the first layer of resnet20 dense, which reads three
channels.
"""

import argparse
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("LACONIC_DATA", "data"))
WEIGHTS = {
    "resnet20": DATA / "weights/resnet20_cifar10_jpeg.safetensors",
    "char_transformer": Path("records/tinyshakespeare-char/char_transformer.safetensors"),
}
STEPS = ("Magnitude", "Wanda", "SparseGPT")
ALLOCATIONS = ("uniform", "sensitivity")


def loaded(network: str, seed: int) -> tuple[Any, Any]:
    """Return the captured network and its data."""
    from laconic import data, zoo
    from laconic.context import Context
    from laconic.program import capture

    if network == "resnet20":
        splits = data.split(data.load("cifar10-jpeg"), seed=seed, validation=2000, calibration=256)
    else:
        whole = data.split(data.load("tinyshakespeare"), seed=seed, calibration=32)
        splits = replace(whole, validation=whole.validation.take(slice(0, None, 4)))
    context = Context(splits, seed=seed)
    return capture(zoo.load(f"zoo:{network}", WEIGHTS[network]), context.example()), context


def score(network: str, program: Any, context: Any) -> str:
    """Return accuracy in percent, or perplexity."""
    from laconic.train import log_likelihood, top1

    if network == "resnet20":
        return f"{100 * top1(program, context.splits.validation):.2f}"
    return f"{math.exp(-log_likelihood(program, context.splits.validation)):.3f}"


def rows(network: str, seed: int, sparsities: list[float], steps: list[str], allocations: list[str]) -> Iterator[tuple[Any, ...]]:
    """Yield zeros and allocation in words, and the score of each step."""
    from laconic import prune
    from laconic.program import clone

    program, context = loaded(network, seed)
    yield "none", "", *([score(network, program, context)] * len(steps))

    def scored(step: str, **settings: Any) -> str:
        left = {"exclude": ("characters", "positions")} if network == "char_transformer" else {}
        return score(network, getattr(prune, step)(**left | settings)(clone(program), context), context)

    for sparsity, allocation in product(sparsities, allocations):
        yield f"{sparsity:.0%}", allocation, *(scored(step, sparsity=sparsity, allocation=allocation) for step in steps)
    first: dict[str, Any] = {"exclude": ("conv1",)} if network == "resnet20" else {}
    if "uniform" in allocations:
        yield "2:4", "", *("" if step == "Magnitude" else scored(step, pattern=(2, 4), **first) for step in steps)


def main() -> None:
    """Print a table for each network and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(WEIGHTS), help=", ".join(WEIGHTS))
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.5, 0.7, 0.8])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--allocations", nargs="+", choices=ALLOCATIONS, default=list(ALLOCATIONS))
    arguments = parser.parse_args()
    for network, seed in product(arguments.networks, arguments.seeds):
        columns = ["zeros", "allocation", *arguments.steps]
        print(f"\n{network}, seed {seed}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for row in rows(network, seed, arguments.sparsities, arguments.steps, arguments.allocations):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
