"""What gets its widths together: weights and the values that they are multiplied with, and values that one weight or sum needs alike."""

from dataclasses import dataclass, field

from torch import fx

from laconic.program import Weight
from laconic.quantize.placement import Sites, points_read


@dataclass
class Tied:
    """Quantized values that get one width, and the weights of the layers that read them, with widths of their own."""

    values: list[fx.Node] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)


def tied(sites: Sites) -> list[Tied]:
    """Return what must be given widths together.

    A weight belongs to the values that its layers read. Values that no layer reads, such as what goes into a sum, belong to the next ones
    that are quantized.
    """
    read = points_read(sites.points, sites.kernels)
    groups = {point: Tied([point]) for point in sites.points}
    for point in [each for each in sites.points if each not in read.values()]:
        following = _next_point(sites, point)
        _join(groups, [point] if following is None else [following, point])
    alone: list[Tied] = []
    for weight in sites.weights:
        points = [read[reader] for reader in weight.readers if reader in read]
        _join(groups, points)
        if not points:
            alone.append(Tied([], [weight]))
    for weight in sites.weights:
        if weight.readers[0] in read:
            groups[read[weight.readers[0]]].weights.append(weight)
    return [*{id(group): group for group in groups.values()}.values(), *alone]


def _join(groups: dict[fx.Node, Tied], points: list[fx.Node]) -> None:
    """Make one group of those of some points, whose weights are not there yet."""
    for point in points[1:]:
        kept, other = groups[points[0]], groups[point]
        if other is not kept:
            kept.values += other.values
            groups.update(dict.fromkeys(other.values, kept))


def _next_point(sites: Sites, point: fx.Node) -> fx.Node | None:
    """Return the next quantized values that depend on those of a point."""
    owner = {value: each for each, shared in sites.points.items() for value in (each, *shared)}
    waiting, seen = list(point.users), set[fx.Node]()
    while waiting:
        node = waiting.pop(0)
        if owner.get(node, point) is not point:
            return owner[node]
        if node not in seen:
            seen.add(node)
            waiting += node.users
    return None
