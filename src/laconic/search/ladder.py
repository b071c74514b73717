"""The ladder: recipes built from the steps there are, cheapest first; the order of techniques in each is structures, training, integers."""

from dataclasses import dataclass
from math import log2

from laconic.receipt import Attempt, Budget
from laconic.recipe import PlainRecipe

INTEGERS, LAYERS, FILTERS, RANKS, PACKINGS = "integers", "layers", "filters", "ranks", "packings"
BOTH = "filters and ranks"
STRUCTURES = "structures"  # layers, filters and ranks
BEYOND_INTEGERS = 4.5  # times smaller: int8 gives less than 4

_FITTED = {"ranges": "mean-square", "weight_ranges": "mean-square"}
_SLACKS = (1.0, 0.85, 0.7, 0.55)  # of the share that would do if time followed the multiply-accumulates


@dataclass(frozen=True)
class Rung:
    """One recipe to try."""

    name: str
    recipe: PlainRecipe
    kind: str = INTEGERS  # rungs of one kind: the first keeps most accuracy where structures go, least where only integers come
    untrained: "Rung | None" = None  # as small and as fast, before what takes long
    max_bytes: int | None = None  # of the packed file that it ends in; None: it ends in a file that a runtime executes


def ladder(budget: Budget, trainable: bool, epochs: int = 3) -> list[Rung]:
    """Return the recipes to try for a budget, cheapest first.

    Weight pruning is not among them: zeros make no runtime's file smaller or faster. It is there for recipes whose target is packed bytes.

    Args:
        budget: what is asked for.
        trainable: whether there is training data, so that recipes may train.
        epochs: of each training.
    """
    rungs = [
        Rung("int8", [{"quantize.Static": {"ranges": "min-max", "bias_correction": False}}]),
        Rung("int8, fitted ranges, corrected biases", [{"quantize.Static": {}}]),
        Rung("int8, fitted ranges of weights too, corrected biases", [{"quantize.Static": _FITTED}]),
    ]
    if _float_may_do(budget):
        rungs.insert(0, Rung("float, exported", []))
    if trainable:
        recovery = {"epochs": epochs, "learning_rate": 0.001, "alpha": 0.9, "weight_decay": 0.0, "keep": "best", "autocast": "off"}
        rungs.append(Rung(f"int8, distilled for {epochs} epochs", [{"quantize.Static": _FITTED}, {"distill.Response": recovery}]))
    return rungs


def structural(budget: Budget, reached: Attempt, trainable: bool, epochs: int = 3) -> list[Rung]:
    """Return recipes that also remove structures, for a budget whose size or speed integers alone do not reach.

    Whole layers first where speed is asked for: what is left stays as wide as runtimes like it. Filters first where bytes are; ranks where
    nothing can be trained.

    Args:
        budget: what is asked for.
        reached: what the best recipe with integers alone reached.
        trainable: whether there is training data.
        epochs: of the short trainings; after structures have gone, four times as many.
    """
    bytes_share = min(_share(reached.smaller, budget.smaller), _share(budget.max_bytes, reached.file_bytes))
    time_share = min(_share(reached.faster, budget.faster), _share(budget.max_latency_ms, reached.latency_ms))
    rungs = list[Rung]()
    for slack in _SLACKS if min(bytes_share, time_share) < 1 else ():
        for kind in _kinds(time_share < bytes_share, trainable):
            rungs.append(_without(kind, slack * bytes_share, slack * time_share, trainable, 4 * epochs))
    return sorted(rungs, key=lambda rung: rung.kind != rungs[0].kind)


def _kinds(is_for_time: bool, trainable: bool) -> tuple[str, ...]:
    """Return what is removed, the best first."""
    if is_for_time:
        return (LAYERS, FILTERS, RANKS, BOTH) if trainable else (RANKS, LAYERS, FILTERS, BOTH)
    return (FILTERS, RANKS, BOTH, LAYERS) if trainable else (RANKS, BOTH, FILTERS, LAYERS)


_KEPT_BITS = (3.0, 5.0)  # that a weight which is not pruned may take; more of them are pruned then


def packings(budget: Budget, baseline_bytes: int, weights: int, trainable: bool, epochs: int = 3) -> list[Rung]:
    """Return recipes that end in a packed file of the size that is asked for; empty where more speed is asked for, or no less size.

    Args:
        budget: what is asked for.
        baseline_bytes: of the float network's file.
        weights: how many the network has.
        trainable: whether there is training data.
        epochs: of the short trainings; after pruning, four times as many.
    """
    limits = [baseline_bytes / budget.smaller if budget.smaller else None, budget.max_bytes]
    target = int(min((limit for limit in limits if limit), default=baseline_bytes))
    if (budget.faster or 0) > 1 or target >= baseline_bytes:
        return []
    rungs = [Rung(f"packed into {target:,} bytes", [], PACKINGS, max_bytes=target)]
    for bits in _KEPT_BITS if trainable else ():
        sparsity = _sparsity(8 * target / weights, bits)
        pruning = {"sparsity": sparsity, "scope": "global"}
        training = {"epochs": 4 * epochs, "learning_rate": 0.05, "schedule": "one-cycle", "alpha": 0.9, "keep": "best"}
        recipe: PlainRecipe = [{"prune.Magnitude": pruning}, {"distill.Response": training}]
        name = f"{100 * sparsity:.3g} % pruned, distilled for {4 * epochs} epochs, packed into {target:,} bytes"
        rungs.append(Rung(name, recipe, PACKINGS, max_bytes=target))
    return rungs


def _sparsity(rate: float, bits: float) -> float:
    """Return the least sparsity, in hundredths, at which the zeros' places and so many bits of each other weight fit into `rate` bits."""

    def takes(sparsity: float) -> float:
        return -sparsity * log2(sparsity) - (1 - sparsity) * log2(1 - sparsity) + (1 - sparsity) * bits

    return next((share / 100 for share in range(50, 99) if takes(share / 100) <= rate), 0.99)


def _without(kind: str, bytes_share: float, time_share: float, trainable: bool, epochs: int) -> Rung:
    unit, share = ("bytes", bytes_share) if bytes_share < time_share else ("macs", time_share)
    removal, integers = _removal(kind, unit, share), {"quantize.Static": _FITTED}
    what = f"{kind} to {100 * _rounded(share):.3g} % of the {unit}"
    untrained = Rung(f"{what}, int8", [*removal, integers], kind)
    if not trainable:
        return untrained
    training = {"epochs": epochs, "learning_rate": 0.05, "schedule": "one-cycle", "alpha": 0.9, "keep": "best"}
    recipe: PlainRecipe = [*removal, {"distill.Response": training}, integers]
    return Rung(f"{what}, distilled for {epochs} epochs, int8", recipe, kind, untrained)


def _removal(kind: str, unit: str, share: float) -> PlainRecipe:
    """Return the steps that leave a share of a cost; of two, each takes as much."""
    if kind == BOTH:
        return [*_removal(FILTERS, unit, share**0.5), *_removal(RANKS, unit, share**0.5)]
    target = {unit: _rounded(share)}
    if kind == FILTERS:
        return [{"prune.Filters": {**target, "multiple_of": 8 if unit == "bytes" else 16}}]
    return [{"prune.Layers" if kind == LAYERS else "factorize.Mixed": target}]


def _rounded(share: float) -> float:
    return max(0.001, round(share, 3))


def _share(reached: float | None, asked: float | None) -> float:
    """Return what must be left of a cost so that a ratio is reached; 1 where nothing is asked."""
    return 1.0 if not reached or not asked else min(1.0, reached / asked)


def _float_may_do(budget: Budget) -> bool:
    """Say whether exporting alone could meet the budget: only absolute limits are asked for."""
    absolute = budget.max_bytes is not None or budget.max_latency_ms is not None
    return absolute and (budget.smaller or 0) <= 1 and (budget.faster or 0) <= 1
