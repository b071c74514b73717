"""Learning rate over time, as a function of the share of training that is done.

Sources: I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, equation 5 without restarts (cosine);
L. Smith, N. Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates", 2018 (one cycle; ours rises
linearly from 1/25 of the height and falls by a cosine to zero; momentum stays).
"""

import math

_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_WARMUP = 0.3


def factor(schedule: str, share: float, warmup: float | None = None) -> float:
    """Return what to multiply the learning rate by.

    Args:
        schedule: "cosine", "one-cycle" or "constant".
        share: of training done, in [0, 1].
        warmup: share during which the rate rises linearly, in [0, 1); None: what is usual for the schedule.

    >>> [round(factor("cosine", share, warmup=0.2), 2) for share in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    one_cycle = schedule == "one-cycle"
    warmup = (_ONE_CYCLE_WARMUP if one_cycle else 0.0) if warmup is None else warmup
    if share < warmup:
        start = _ONE_CYCLE_START if one_cycle else 0.0
        return start + (1 - start) * share / warmup
    return 1.0 if schedule == "constant" else (1 + math.cos(math.pi * (share - warmup) / (1 - warmup))) / 2
