"""One option for each of several items, so that the costs stay within a budget and the losses are least: exactly.

Source: the multiple-choice knapsack problem, by M. E. Dyer, W. O. Riha, J. Walker, "A hybrid dynamic programming/branch-and-bound
algorithm for the multiple-choice knapsack problem", Journal of Computational and Applied Mathematics 58, 1995: dynamic programming over
the undominated sums of costs and losses, without those whose bound shows that they lead to nothing better. The bound is the linear
relaxation, solved on the lower convex hull of each item's options (P. Sinha, A. A. Zoltners, "The Multiple-Choice Knapsack Problem",
Operations Research 27, 1979).

Costs are whole numbers of any size: there is no table over the budget, and nothing is scaled or rounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Options: TypeAlias = Sequence[tuple[int, float]]
"""Cost and loss of each thing that one may choose."""

_STATES = 1 << 18  # sums of costs and losses kept at once; more are thinned, which the bound then tells


@dataclass(frozen=True)
class Allocation:
    """An option for each item."""

    choice: tuple[int, ...]  # position among the item's options
    cost: int
    loss: float
    bound: float  # no choice within the budget has a smaller loss than this

    @property
    def gap(self) -> float:
        """How far the loss can be from the smallest possible one; 0 where it is."""
        return self.loss - self.bound


def undominated(options: Options) -> list[int]:
    """Return the positions of the options that no other is as good as in both cost and loss, by rising cost and falling loss.

    >>> undominated([(4, 1.0), (2, 3.0), (3, 3.5), (4, 0.5), (8, 0.5)])
    [1, 3]
    """
    left: list[int] = []
    for position in sorted(range(len(options)), key=lambda position: options[position]):
        if not left or options[position][1] < options[left[-1]][1]:
            left.append(position)
    return left


def allocate(items: Sequence[Options], budget: int, states: int = _STATES) -> Allocation | None:
    """Return the choice of least loss whose costs sum to at most `budget`; None: there is none.

    Args:
        items: the options of each; costs are whole numbers from 0, at least one option each.
        budget: the largest sum of costs.
        states: partial sums kept at once. Where there are more, those of the highest bounds go, and the result may miss the optimum, by no
            more than its `gap`.
    """
    if sum(min(cost for cost, _ in options) for options in items) > budget:
        return None
    return _Search(items, budget, states).run()


def hull(options: Options) -> list[int]:
    """Return the positions of the options on the lower convex hull, by rising cost: each step gains less loss per cost than the last.

    >>> hull([(0, 9.0), (1, 6.0), (2, 5.0), (3, 1.0)])
    [0, 1, 3]
    """
    corners: list[int] = []
    for position in undominated(options):
        while len(corners) > 1 and _gain(options, corners[-2], corners[-1]) <= _gain(options, corners[-1], position):
            corners.pop()
        corners.append(position)
    return corners


def _gain(options: Options, before: int, after: int) -> float:
    """Return by how much the loss falls per cost."""
    (cost, loss), (more, less) = options[before], options[after]
    return (loss - less) / (more - cost)


@dataclass(frozen=True)
class _Relaxation:
    """What the items from some position on can still give for a budget, when fractions of steps may be taken.

    Corner 0 is the cheapest option of each, and every step to the next corner improves one item, the one that gains most per cost first.
    """

    steps: tuple[tuple[int, int], ...]  # item, and the option that it changes to
    costs: NDArray[np.int64]  # (corners,) rising
    losses: NDArray[np.float64]  # (corners,) falling

    def bounds(self, left: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the least loss for what is left of the budget; infinite where it is not enough."""
        found = np.interp(left.astype(np.float64), self.costs.astype(np.float64), self.losses)
        return np.where(left >= self.costs[0], found, np.inf)

    def corner(self, left: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the last corner that can be paid."""
        return np.searchsorted(self.costs, left, side="right") - 1


def _relaxation(items: Sequence[Options], first: int) -> _Relaxation:
    """Return the relaxation of the items from `first` on."""
    corners = {item: hull(items[item]) for item in range(first, len(items))}
    steps = [(item, before, after) for item, on_hull in corners.items() for before, after in pairwise(on_hull)]
    steps.sort(key=lambda step: -_gain(items[step[0]], step[1], step[2]))  # stable: those of one item stay in order
    changes = [
        (items[item][after][0] - items[item][before][0], items[item][after][1] - items[item][before][1]) for item, before, after in steps
    ]
    start = [items[item][on_hull[0]] for item, on_hull in corners.items()]
    costs = np.cumsum([sum(cost for cost, _ in start), *(cost for cost, _ in changes)], dtype=np.int64)
    losses = np.cumsum([sum(loss for _, loss in start), *(loss for _, loss in changes)], dtype=np.float64)
    return _Relaxation(tuple((item, after) for item, _, after in steps), costs, losses)


@dataclass(frozen=True)
class _Stage:
    """The undominated sums over the first items, with the way back."""

    costs: NDArray[np.int64]
    losses: NDArray[np.float64]
    parents: NDArray[np.int64]  # position among the sums of the stage before
    options: NDArray[np.int64]  # option of the item that came last


class _Search:
    def __init__(self, items: Sequence[Options], budget: int, states: int) -> None:
        self._items, self._budget, self._states = items, budget, states
        self._relaxations = [_relaxation(items, first) for first in range(len(items) + 1)]
        zero = np.zeros(1, np.int64)
        self._stages = [_Stage(zero, np.zeros(1), zero, zero)]
        self._best, self._best_at = np.inf, (0, 0)  # loss, and the stage and sum which, completed by whole steps, has it
        self._thinned = np.inf  # least bound of what was left out for want of room

    def run(self) -> Allocation:
        self._complete()
        for options in self._items:
            self._stages.append(self._next(options))
            self._complete()
        choice = self._choice()
        cost = sum(options[position][0] for options, position in zip(self._items, choice, strict=True))
        loss = sum(options[position][1] for options, position in zip(self._items, choice, strict=True))
        return Allocation(choice, cost, loss, min(loss, float(self._thinned)))

    def _complete(self) -> None:
        """Complete every sum by the whole steps that can be paid, and keep the best."""
        stage, rest = self._stages[-1], self._relaxations[len(self._stages) - 1]
        if len(stage.costs):
            losses = stage.losses + rest.losses[rest.corner(self._budget - stage.costs)]
            least = int(losses.argmin())
            if losses[least] < self._best:
                self._best, self._best_at = float(losses[least]), (len(self._stages) - 1, least)

    def _next(self, options: Options) -> _Stage:
        """Add an item to every sum, and leave out what is dominated or cannot become better than the best."""
        stage, rest, useful = self._stages[-1], self._relaxations[len(self._stages)], undominated(options)
        costs = (stage.costs[:, None] + np.array([options[each][0] for each in useful], np.int64)).ravel()
        losses = (stage.losses[:, None] + np.array([options[each][1] for each in useful])).ravel()
        bounds = losses + rest.bounds(self._budget - costs)
        [alive] = np.nonzero(bounds < self._best)
        alive = alive[np.lexsort((losses[alive], costs[alive]))]
        alive = alive[np.concatenate([[True], losses[alive][1:] < np.minimum.accumulate(losses[alive])[:-1]])[: len(alive)]]
        if len(alive) > self._states:
            order = np.argsort(bounds[alive], kind="stable")
            self._thinned = min(self._thinned, float(bounds[alive[order[self._states]]]))
            alive = alive[np.sort(order[: self._states])]
        return _Stage(costs[alive], losses[alive], alive // len(useful), np.array(useful, np.int64)[alive % len(useful)])

    def _choice(self) -> tuple[int, ...]:
        """Follow the best sum back to the first item, and complete it by its steps."""
        last, at = self._best_at
        rest = self._relaxations[last]
        chosen = {item: hull(self._items[item])[0] for item in range(last, len(self._items))}
        chosen |= dict(rest.steps[: int(rest.corner(self._budget - self._stages[last].costs[at : at + 1])[0])])
        for position in range(last, 0, -1):
            chosen[position - 1] = int(self._stages[position].options[at])
            at = int(self._stages[position].parents[at])
        return tuple(chosen[item] for item in range(len(self._items)))
