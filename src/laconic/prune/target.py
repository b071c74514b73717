"""Which channels stay so that a network costs what is asked for: the cheapest to lose go first, per unit of cost that they save."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from laconic.errors import UnreachableError
from laconic.goal import Unit
from laconic.program.cost import Cost, byte_costs, mac_costs
from laconic.program.groups import Found, Group
from laconic.program.sizes import Sizes
from laconic.program.walk import Walk
from laconic.prune.ranking import Ranking

TOLERANCE = 0.02
"""How far from the target a choice may end, as a share of it."""

_STEPS = 128  # in which the widest groups are taken apart


@dataclass(frozen=True)
class Target:
    """A share of a cost that is to stay."""

    unit: Unit
    share: float
    floor: float = 0.1  # share of each group's channels that stays in any case
    multiple_of: int = 1  # of the channels that stay, where a group has that many
    least: Mapping[str, int] = field(default_factory=dict)  # channels that stay in any case, of groups whose floor is known so


@dataclass
class _Ledger:
    """A cost as channels go, summed over what depends on them."""

    costs: list[Cost]
    sizes: Sizes
    kept: dict[int, list[int]]  # by symbol; what `sizes` reads

    @classmethod
    def open(cls, found: Found, groups: Sequence[Group], unit: Unit) -> "_Ledger":
        kept = {group.symbol: list(range(group.channels)) for group in groups}
        makers: dict[str, Callable[[Walk], list[Cost]]] = {"macs": mac_costs, "bytes": byte_costs}
        costs = makers[unit](found.walk) if unit in makers else [_count(group) for group in groups]
        return cls(costs, Sizes(found.walk, kept), kept)

    def of(self, symbol: int | None = None) -> int:
        """Return the sum over everything, or over what depends on one symbol."""
        return sum(cost.of(self.sizes) for cost in self.costs if symbol is None or symbol in cost.symbols)

    def saved(self, symbol: int, count: int) -> int:
        """Return what taking `count` channels of a symbol would save now."""
        before, kept = self.of(symbol), self.kept[symbol]
        self.kept[symbol] = kept[: len(kept) - count]
        after = self.of(symbol)
        self.kept[symbol] = kept
        return before - after


def _count(group: Group) -> Cost:
    return Cost(group.name, frozenset({group.symbol}), lambda sizes: len(sizes.keep[group.symbol]))


def choose(found: Found, groups: Sequence[Group], ranking: Ranking, target: Target) -> dict[str, list[int]]:
    """Choose the channels that stay.

    Channels go one by one (or so many at once that their number stays a multiple): each time those that cost the least loss
    for what they save, or that rank lowest where the ranking is of no known unit. It ends at the target or, where groups are
    too coarse for that, as near to it as one more step comes.

    Returns:
        By the name of each group that loses any, its channels that stay.

    Raises:
        LaconicError: the target is below what is left when every group is at its floor; says the reachable minimum.
    """
    check_reachable(found, groups, target)
    ledger = _Ledger.open(found, groups, target.unit)
    whole = ledger.of()
    limit, now = target.share * whole, whole
    offers = {group.name: _offer(ledger, ranking, group, target) for group in groups}
    by_name = {group.name: group for group in groups}
    while now > limit:
        fitting = [offer for offer in offers.values() if offer and now - offer.saves >= limit - TOLERANCE / 2 * limit]
        if not fitting:
            _come_nearer(ledger, ranking, by_name, [offer for offer in offers.values() if offer], now - limit)
            break
        best = min(fitting, key=lambda offer: offer.cost / (max(offer.saves, 1) if ranking.in_loss else len(offer.channels)))
        stale = _accept(ledger, ranking, by_name[best.group], best) | _coupled(ledger, by_name[best.group], groups)
        now -= best.saves
        offers |= {name: _offer(ledger, ranking, by_name[name], target) for name in stale | {best.group} if name in by_name}
    return {group.name: ledger.kept[group.symbol] for group in groups if len(ledger.kept[group.symbol]) < group.channels}


def _come_nearer(ledger: _Ledger, ranking: Ranking, groups: Mapping[str, Group], offers: Sequence["_Offer"], missing: float) -> None:
    """Take one more offer, though it goes too far, where that ends nearer than what is missing now."""
    nearest = min(offers, key=lambda offer: abs(offer.saves - missing), default=None)
    if nearest and abs(nearest.saves - missing) < missing:
        _accept(ledger, ranking, groups[nearest.group], nearest)


@dataclass(frozen=True)
class _Offer:
    group: str
    channels: tuple[int, ...]
    cost: float
    saves: int


def _offer(ledger: _Ledger, ranking: Ranking, group: Group, target: Target) -> _Offer | None:
    """Return the cheapest channels of a group to take next; None: it is at its floor."""
    kept = ledger.kept[group.symbol]
    count = _next_step(len(kept), group, target)
    if not count:
        return None
    costs = ranking.costs(group)[kept]
    cheapest = costs.argsort(stable=True)[:count]
    channels = tuple(kept[int(i)] for i in cheapest)
    return _Offer(group.name, channels, float(costs[cheapest].sum()), ledger.saved(group.symbol, count))


def _next_step(kept: int, group: Group, target: Target) -> int:
    """Return how many channels to take so that a multiple is left, more at once of a wide group; 0: none may go."""
    multiple = target.multiple_of
    stride = multiple * max(1, group.channels // (_STEPS * multiple))
    floor = target.least.get(group.name, max(1, ceil(round(target.floor * group.channels, 6))))
    return next((count for count in (kept % multiple or stride, kept % multiple or multiple) if kept - count >= floor), 0)


def _accept(ledger: _Ledger, ranking: Ranking, group: Group, offer: _Offer) -> set[str]:
    gone = set(offer.channels)
    ledger.kept[group.symbol] = [channel for channel in ledger.kept[group.symbol] if channel not in gone]
    return ranking.take(group, list(offer.channels))


def _coupled(ledger: _Ledger, group: Group, groups: Sequence[Group]) -> set[str]:
    """Return the groups whose channels now save another amount."""
    shared = frozenset().union(*(cost.symbols for cost in ledger.costs if group.symbol in cost.symbols))
    return {each.name for each in groups if each.symbol in shared}


def cost(found: Found, groups: Sequence[Group], unit: Unit, keep: Mapping[str, Sequence[int]] | None = None) -> int:
    """Return what a network costs as it is, or with the channels that stay by the name of their group."""
    ledger = _Ledger.open(found, groups, unit)
    ledger.kept |= {group.symbol: list(keep[group.name]) for group in groups if keep and group.name in keep}
    return ledger.of()


def check_reachable(found: Found, groups: Sequence[Group], target: Target) -> None:
    """Say so where a target is below what is left when every group is at its floor.

    Raises:
        LaconicError: with the reachable minimum.
    """
    ledger = _Ledger.open(found, groups, target.unit)
    whole = ledger.of()
    for group in groups:
        left = group.channels
        while count := _next_step(left, group, target):
            left -= count
        ledger.kept[group.symbol] = list(range(left))
    least = ledger.of() / whole
    if least > target.share * (1 + TOLERANCE):
        raise UnreachableError(
            f"{target.unit}={target.share:g} cannot be reached: {least:.3f} of the {target.unit} is the least when every group keeps "
            f"{target.floor:.0%} of its channels (floor); frozen axes and excluded layers hold the rest"
        )
