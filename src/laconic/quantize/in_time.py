"""Which layers stay float within a latency that is measured: the least noise at the output that the time allows.

A layer takes one time in integers and another in float, whatever the width, for runtimes compute 2 to 8 bits at one speed. Both are read
off the profiles of the two whole files; what each layer loses in integers is measured at the output (see `sensitivity`). The choice is
exact for the sum of these times (see `numeric.allocation`), but layers that change kinds around each other cost conversions that no profile
of the two files shows. So every choice is exported and timed against the float network, and what the sum may be is found by halving.
"""

from collections.abc import Callable
from dataclasses import dataclass

from laconic.errors import UnreachableError
from laconic.numeric.allocation import allocate

_TRIALS = 6  # networks that are exported and timed, beside the first
_NANO = 1e9


@dataclass(frozen=True)
class Timed:
    """A layer, its seconds in float and in integers, and what the output loses by its integers."""

    name: str
    whole: float
    integer: float
    loss: float


@dataclass(frozen=True)
class InTime:
    """The layers that stay float, and the share of the float network's time that was measured with them, and with none."""

    layers: tuple[str, ...]
    share: float
    least: float


def float_in_time(layers: list[Timed], share: float, measured: Callable[[tuple[str, ...]], float]) -> InTime:
    """Return the layers to leave in float so that no more than a share of the float network's time is taken.

    Args:
        layers: all that may be quantized.
        share: of the time, above 0 and below 1.
        measured: exports and times the network with the named layers in float; gives its share of the float network's time.

    Raises:
        UnreachableError: all layers in integers take more.
    """
    least = measured(())
    if least > share:
        raise UnreachableError(f"latency={share:g} cannot be reached: with all layers in integers it is {least:.3f} of the float network's")
    low, high = (sum(pick(layer.whole, layer.integer) for layer in layers) for pick in (min, max))
    found, tried = InTime((), least, least), dict[tuple[str, ...], float]({(): least})
    for trial in range(_TRIALS):
        limit = (low + high) / 2 if trial else low + (high - low) * (share - least) / max(1 - least, share - least)
        chosen = _chosen(layers, limit)
        took = tried[chosen] if chosen in tried else measured(chosen)
        tried[chosen] = took
        if took <= share:
            low, found = limit, InTime(chosen, took, least) if _loss(layers, chosen) <= _loss(layers, found.layers) else found
        else:
            high = limit
    return found


def _chosen(layers: list[Timed], limit: float) -> tuple[str, ...]:
    """Return the layers in float of least loss of the others, for so many seconds of all together."""
    items = [[(round(layer.integer * _NANO), layer.loss), (round(layer.whole * _NANO), 0.0)] for layer in layers]
    cheapest = sum(min(cost for cost, _ in options) for options in items)
    found = allocate(items, max(round(limit * _NANO), cheapest))
    assert found is not None
    return tuple(layer.name for layer, option in zip(layers, found.choice, strict=True) if option)


def _loss(layers: list[Timed], whole: tuple[str, ...]) -> float:
    return sum(layer.loss for layer in layers if layer.name not in whole)
