"""A built-in network without weights is trained first: there must be a float network to shrink."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save as serialize

from laconic import zoo
from laconic.deliver import Say
from laconic.files import write_bytes
from laconic.job import Job, Origin, prepare
from laconic.program import dense_state
from laconic.recipe import apply, parse
from laconic.store import Store

_USUAL: dict[str, Any] = {"epochs": 30, "batch": 128, "learning_rate": 0.1, "schedule": "one-cycle", "weight_decay": 5e-4}
_OWN: dict[str, dict[str, Any]] = {name: {"epochs": 20, "learning_rate": 0.05} for name in ("lenet300", "lenet5")}


def prepare_trained(origin: Origin, threads: int, runtime: str, folder: Path, store: Store, say: Say, compiled: bool = False) -> Job:
    """Prepare a run as `prepare` does, but train a built-in network that comes without weights on the data's labels before.

    Args:
        origin: the network and the data.
        threads: of the runtime.
        runtime: what steps that look at latency are timed in.
        folder: where the trained weights are written, as `weights.safetensors`.
        store: finished work; a network that was trained there is not trained again.
        say: told that it is trained.
        compiled: whether networks are compiled for training.

    Raises:
        LaconicError: as `prepare`.
    """
    name = origin.model.removeprefix("zoo:").partition("?")[0]
    if origin.weights is not None or name not in zoo.MODELS or origin.against == "network":
        return prepare(origin, threads, runtime=runtime, compiled=compiled)
    job = prepare(origin, threads, trained=False, compiled=compiled)
    if job.splits.train is None:
        return prepare(origin, threads, runtime=runtime)
    settings = _USUAL | _OWN.get(name, {})
    say(f"{origin.model} comes without weights: trained first, for {settings['epochs']} epochs")
    done = apply(job.program, parse([{"tune.FineTune": settings}]), job.context, store)
    weights = folder / "weights.safetensors"
    write_bytes(weights, serialize(dense_state(done.program)))
    score = done.journal[-1].score_after
    say(f"      validation score {score:.4f}")
    words = f"here, from random weights at seed {origin.seed}: tune.FineTune {settings}, validation score {score:.4f}"
    return replace(prepare(replace(origin, weights=weights), threads, runtime=runtime, compiled=compiled), trained=words)
