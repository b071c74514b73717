"""The ladder: recipes built from the steps there are, cheapest first."""

from dataclasses import dataclass

from laconic.receipt import Budget
from laconic.recipe import PlainRecipe


@dataclass(frozen=True)
class Rung:
    """One recipe to try."""

    name: str
    recipe: PlainRecipe


def ladder(budget: Budget, trainable: bool, epochs: int = 3) -> list[Rung]:
    """Return the recipes to try for a budget, cheapest first.

    Weight pruning is not among them: zeros make no runtime's file smaller or faster. It is there for recipes whose target is packed bytes.

    Args:
        budget: what is asked for.
        trainable: whether there is training data, so that recipes may train.
        epochs: of each training.
    """
    fitted = {"ranges": "mean-square", "weight_ranges": "mean-square"}
    rungs = [
        Rung("int8", [{"quantize.Static": {"ranges": "min-max", "bias_correction": False}}]),
        Rung("int8, fitted ranges, corrected biases", [{"quantize.Static": {}}]),
        Rung("int8, fitted ranges of weights too, corrected biases", [{"quantize.Static": fitted}]),
    ]
    if _float_may_do(budget):
        rungs.insert(0, Rung("float, exported", []))
    if trainable:
        recovery = {"epochs": epochs, "learning_rate": 0.001, "alpha": 0.9, "weight_decay": 0.0, "keep": "best", "autocast": "off"}
        rungs.append(Rung(f"int8, distilled for {epochs} epochs", [{"quantize.Static": fitted}, {"distill.Response": recovery}]))
    return rungs


def _float_may_do(budget: Budget) -> bool:
    """Say whether exporting alone could meet the budget: only absolute limits are asked for."""
    absolute = budget.max_bytes is not None or budget.max_latency_ms is not None
    return absolute and (budget.smaller or 0) <= 1 and (budget.faster or 0) <= 1
