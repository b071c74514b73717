"""A receipt in words: the headline, the before/after rows and the limits of the budget, shared by terminal and page."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any

from laconic.receipt import Attempt, Budget, Measurement, Receipt
from laconic.report.units import (
    bytes_text,
    count_text,
    faster_text,
    gain_text,
    joules_text,
    latency_text,
    percent_text,
    points_text,
    rate_text,
    ratio_text,
    score_text,
    seconds_text,
    times_text,
)
from laconic.search import Gain

# Settings that name a technique's strength
_TELLING = (
    *("ratio", "macs", "bytes", "latency", "sparsity", "epochs"),
    *("bits", "weight_bits", "activation_bits", "format", "granularity", "rank"),
)


@dataclass(frozen=True)
class Row:
    """One quantity before and after, as text."""

    quantity: str
    before: str
    after: str
    change: str


@dataclass(frozen=True)
class Limit:
    """One limit of the budget: what was asked and what was measured."""

    asked: str
    measured: str
    met: bool


def headline(receipt: Receipt) -> str:
    """Say in one sentence what was gained, what was lost and whether the budget is met."""
    gains = (ratio_text(receipt.ratios.smaller, "smaller", "larger"), faster_text(receipt.ratios.faster).partition(" (")[0])
    smaller, faster = (text.replace("no change", "not smaller").replace("no difference", "no faster") for text in gains)
    return f"{smaller}, {faster}, {points_text(receipt.drop_points)} on {receipt.after.examples:,} test examples; {verdict(receipt)}"


def verdict(receipt: Receipt) -> str:
    """Say whether the budget is met and, if not, what is missed."""
    if receipt.budget == Budget():
        return "no budget was set"
    return "budget met" if receipt.met else f"budget missed: {'; '.join(receipt.missed)}"


def subject(receipt: Receipt) -> str:
    """Name the network and the data: "lenet5 on fashion-mnist"."""
    return f"{receipt.model.get('name', 'network')} on {receipt.data.get('name', 'data')}"


def conditions(receipt: Receipt) -> str:
    """Name the runtime, its version and the number of threads."""
    runtime = " ".join(filter(None, (receipt.runtime.get("name", receipt.after.runtime), receipt.runtime.get("version"))))
    return f"{runtime}, {receipt.threads} thread{'s' if receipt.threads != 1 else ''}"


def rows(receipt: Receipt) -> tuple[Row, ...]:
    """Return every measured quantity before and after."""
    before, after, ratios = receipt.before, receipt.after, receipt.ratios
    return (
        Row("file", bytes_text(before.file_bytes), bytes_text(after.file_bytes), ratio_text(ratios.smaller, "smaller", "larger")),
        _amount("parameters", before.parameters, after.parameters, count_text, ("fewer", "more")),
        _amount("non-zero parameters", before.nonzero_parameters, after.nonzero_parameters, count_text, ("fewer", "more")),
        _amount("MACs", before.macs, after.macs, count_text, ("fewer", "more")),
        *_score(receipt),
        *_top5(receipt),
        *_perplexity(receipt),
        Row("latency, batch 1", latency_text(before.latency_seconds), latency_text(after.latency_seconds), faster_text(ratios.faster)),
        _throughput(receipt),
        _amount("peak memory", before.peak_memory_bytes, after.peak_memory_bytes, bytes_text, ("less", "more")),
        _energy(before.joules, after.joules),
        *_decoding(after),
        *_named(after),
    )


def _named(after: Measurement) -> tuple[Row, ...]:
    """Return the size of the same network under its architecture's name."""
    if after.named_bytes is None:
        return ()
    return (Row("file without its graph", "", bytes_text(after.named_bytes), "named.lac: its architecture is the zoo's"),)


def _decoding(after: Measurement) -> tuple[Row, ...]:
    if after.decode_seconds is None or after.decode_memory_bytes is None:
        return ()
    memory = f"in {bytes_text(int(after.decode_memory_bytes))} of memory"
    return (Row("decoding", "", seconds_text(after.decode_seconds), memory),)


def limits(receipt: Receipt) -> tuple[Limit, ...]:
    """Return every limit that was asked for; a ratio is judged by its median, as the measured text shows."""
    budget, after, ratios = receipt.budget, receipt.after, receipt.ratios
    lost, latency = receipt.drop_points, after.latency_seconds.median * 1e3
    found = (
        _limit(budget.max_drop, lost, "at most {} points lost", "{} points", most=True),
        _limit(budget.smaller, ratios.smaller, "at least {}x smaller", "{}x", most=False),
        _limit(budget.faster, ratios.faster.median, "at least {}x faster", "{}x", most=False),
        _limit(budget.max_bytes, after.file_bytes, "at most {} bytes", "{} bytes", most=True),
        _limit(budget.max_latency_ms, latency, "at most {} ms", "{} ms", most=True),
    )
    return tuple(limit for limit in found if limit)


def gained(found: Gain) -> str:
    """Say what distillation gains over the same training on labels alone.

    >>> gained(Gain((0, 1), (0.9, 0.92), (0.89, 0.9)))
    'distillation: +1.50 points over training on labels alone (91.00 % against 89.50 %, means of 2 seeds, validation; +1.00, +2.00)'
    """
    ours, theirs, count = mean(found.taught), mean(found.alone), len(found.seeds)
    each = ", ".join(f"{points:+.2f}" for points in found.points)
    seeds = f"{'means of ' if count > 1 else ''}{count} seed{'s' if count > 1 else ''}, validation"
    both = f"{score_text(ours)} against {score_text(theirs)}"
    if theirs < 0:
        return f"distillation: {both} of training on labels alone ({seeds})"
    return f"distillation: {gain_text(mean(found.points))} over training on labels alone ({both}, {seeds}; {each})"


def unpaid(receipt: Receipt) -> tuple[str, ...]:
    """Name every layer whose multiply-accumulates went without its time: what the hardware does not pay for."""
    return tuple(
        f"{layer.name}: {times_text(layer.macs_before / layer.macs_after)} fewer MACs, "
        f"{ratio_text(layer.seconds_before / layer.seconds_after, 'faster', 'slower').replace('no change', 'no faster')}"
        for layer in receipt.layers
        if layer.pays is False and layer.seconds_before and layer.seconds_after
    )


def short_recipe(recipe: list[dict[str, dict[str, Any]]]) -> str:
    """Name the steps of a recipe and the settings that tell their strength.

    >>> short_recipe([{"prune.Filters": {"ratio": None, "macs": 1 / 3, "exclude": ["fc"]}}, {"quantize.Static": {}}])
    'prune.Filters(macs=0.333) + quantize.Static'
    """
    return " + ".join(_short_step(step, settings or {}) for entry in recipe for step, settings in entry.items()) or "nothing"


def attempt_verdict(attempt: Attempt, receipt: Receipt) -> str:
    """Say whether an attempt meets the budget, what it misses, and whether it is the one that was delivered."""
    chosen = ", delivered" if attempt.recipe == receipt.recipe else ""
    return (f"misses: {'; '.join(attempt.missed)}" if attempt.missed else "meets the budget") + chosen


def _short_step(step: str, settings: dict[str, Any]) -> str:
    shown = ", ".join(f"{name}={_brief(settings[name])}" for name in _TELLING if settings.get(name) is not None)
    return f"{step}({shown})" if shown else step


def _brief(setting: Any) -> str:
    return f"{setting:.3g}" if isinstance(setting, float) else str(setting)


def _amount(quantity: str, before: float, after: float, text: Callable[[float], str], words: tuple[str, str]) -> Row:
    """Return the row of something of which less is better."""
    return Row(quantity, text(before), text(after), ratio_text(before / after, *words) if after and before else "-")


def scored_by(side: Measurement) -> str:
    """Name what the accuracy of a network is: of classes, of pixels, of boxes, or of vectors."""
    if side.lowest_cosine is not None:
        return "cosine"
    if side.pixel_accuracy is not None:
        return "mean IoU"
    return "accuracy, top-1" if side.strict_precision is None else "AP at IoU 0.5"


def score_of(side: Measurement) -> str:
    """Return the accuracy with its name where that is not top-1."""
    if side.lowest_cosine is not None:
        return f"cosine {side.accuracy:.4f}"
    name = scored_by(side)
    return percent_text(side.accuracy) if name == "accuracy, top-1" else f"{name} {percent_text(side.accuracy)}"


def _score(receipt: Receipt) -> tuple[Row, ...]:
    """Return the row of accuracy and, where there is a stricter or a simpler measure beside it, that one's."""
    before, after, change = receipt.before, receipt.after, gain_text(-receipt.drop_points)
    if before.lowest_cosine is not None and after.lowest_cosine is not None:
        return (
            Row("cosine with the network's own outputs", f"{before.accuracy:.4f}", f"{after.accuracy:.4f}", change),
            Row("its lowest", f"{before.lowest_cosine:.4f}", f"{after.lowest_cosine:.4f}", "-"),
        )
    return (
        Row(scored_by(after), percent_text(before.accuracy), percent_text(after.accuracy), change),
        *_beside("pixels, right", before.pixel_accuracy, after.pixel_accuracy),
        *_beside("AP at IoU 0.5 to 0.95", before.strict_precision, after.strict_precision),
    )


def _beside(name: str, before: float | None, after: float | None) -> tuple[Row, ...]:
    """Return the row of a share that only some networks have, or none."""
    if before is None or after is None:
        return ()
    return (Row(name, percent_text(before), percent_text(after), gain_text((after - before) * 100)),)


def _top5(receipt: Receipt) -> tuple[Row, ...]:
    """Return the row of top-5 accuracy, or none where there are 5 classes or fewer."""
    return _beside("accuracy, top-5", receipt.before.accuracy_top5, receipt.after.accuracy_top5)


def _perplexity(receipt: Receipt) -> tuple[Row, ...]:
    """Return the row of a language model's perplexity, or none."""
    before, after = receipt.before.perplexity, receipt.after.perplexity
    if before is None or after is None:
        return ()
    return (Row("perplexity", f"{before:.4g}", f"{after:.4g}", f"{100 * (after / before - 1):+.2f} %"),)


def _throughput(receipt: Receipt) -> Row:
    before, after = receipt.before, receipt.after
    batches = " and ".join(str(batch) for batch in dict.fromkeys((before.throughput_batch, after.throughput_batch)))
    change = ratio_text(receipt.ratios.throughput, "higher", "lower")
    return Row(f"throughput, batch {batches}", rate_text(before.throughput_per_second), rate_text(after.throughput_per_second), change)


def _energy(before: float | None, after: float | None) -> Row:
    change = ratio_text(before / after, "less", "more") if before and after else "-"
    return Row("energy per example", joules_text(before), joules_text(after), change)


def _limit(asked: float | None, measured: float, asked_text: str, measured_text: str, *, most: bool) -> Limit | None:
    """Judge one limit, or return None where nothing was asked."""
    if asked is None:
        return None
    met = math.isclose(measured, asked, rel_tol=1e-9) or (measured < asked if most else measured > asked)
    return Limit(asked_text.format(f"{asked:,.10g}"), measured_text.format(_apart(measured, asked)), met)


def _apart(measured: float, asked: float) -> str:
    """Write `measured` with at least two decimals, and as many as tell it from `asked`.

    >>> _apart(3.98, 4), _apart(3.9996, 4), _apart(4, 4), _apart(283_166, 300_000)
    ('3.98', '3.9996', '4.00', '283,166')
    """
    if isinstance(measured, int) and measured >= 1000:
        return f"{measured:,}"
    texts = (f"{measured:,.{decimals}f}" for decimals in range(2, 9))
    return next((text for text in texts if float(text.replace(",", "")) != asked), f"{measured:,.2f}")
