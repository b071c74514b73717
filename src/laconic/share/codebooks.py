"""The best codebooks of a weight for every number of codes, and the numbers that lose least within a budget of bits."""

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor

from laconic.errors import LaconicError
from laconic.numeric.allocation import allocate
from laconic.numeric.clustering import Clustering, cluster
from laconic.numeric.packing import width
from laconic.program import Shared, Weight

_BITS = 32  # of a centroid


@dataclass(frozen=True)
class Group:
    """The entries that share a codebook, clustered into 1 centre and more; zeros are in no cluster."""

    clusterings: list[Clustering]
    entries: int
    zeros: int

    def at(self, centres: int) -> Clustering:
        """Return the clustering into so many, or into one for each value where there are fewer."""
        return self.clusterings[min(centres, len(self.clusterings)) - 1]

    def entropy(self, centres: int) -> float:
        """Return the bits of all codes together, when they are coded by how common they are."""
        shares = np.append(self.at(centres).shares * (self.entries - self.zeros), self.zeros) / max(self.entries, 1)
        shares = shares[shares > 0]
        return -float((shares * np.log2(shares)).sum()) * self.entries


@dataclass(frozen=True)
class Clustered:
    """A weight, and the clusterings of its groups of channels."""

    weight: Weight
    keep: Tensor | None  # where entries are not held at zero by a mask: these have codes
    groups: list[Group]
    group: Tensor | None  # of each channel; None: there is one

    @property
    def entries(self) -> int:
        """How many entries have codes."""
        return sum(group.entries for group in self.groups)

    @property
    def holds_zero(self) -> bool:
        """Whether one code stands for 0: there are zeros that no mask holds."""
        return any(group.zeros for group in self.groups)

    @property
    def most(self) -> int:
        """How many different values there can be: codes beyond them are of no use."""
        return max(len(group.clusterings) for group in self.groups) + self.holds_zero

    def error(self, codes: int) -> float:
        """Return the sum of the squared errors, weighed."""
        return sum(group.at(codes - self.holds_zero).error for group in self.groups)

    def bits(self, codes: int) -> int:
        """Return the entropy of the codes and the bits of the codebooks."""
        centres = codes - self.holds_zero
        return ceil(sum(group.entropy(centres) for group in self.groups)) + _BITS * centres * len(self.groups)

    def is_smaller(self, codes: int) -> bool:
        """Say whether codes, at their true width, and codebooks take fewer bytes than the entries."""
        shared = ceil(self.entries * width(codes) / 8) + 4 * (codes - self.holds_zero) * len(self.groups)
        return shared < self.entries * self.weight.value.element_size()

    def form(self, codes: int) -> Shared:
        """Return the codebooks of so many codes as a representation; every entry has the code of its nearest centre."""
        centres = codes - self.holds_zero
        books = [torch.from_numpy(group.at(centres).centres) for group in self.groups]
        filled = torch.stack([torch.cat([book, book[-1:].expand(centres - len(book))]) for book in books])
        form = Shared(filled, torch.zeros_like(self.weight.value), self.weight.axis, self.group, self.holds_zero)
        form.right_inverse(self.weight.value)
        return form


def clustered(weight: Weight, keep: Tensor | None, importance: Tensor | None, most: int, group_size: int | None) -> Clustered:
    """Cluster the entries of a weight.

    Args:
        weight: finite.
        keep: where entries are not held at zero; None: everywhere.
        importance: what the squared errors of the entries are weighed with; None: all the same.
        most: of codes.
        group_size: consecutive channels that share a codebook; None: all.
    """
    size = group_size or weight.value.shape[weight.axis]

    def parts(tensor: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.split(tensor.detach().movedim(weight.axis, 0).flatten(1), size))

    values = parts(weight.value)
    kept = parts(torch.ones_like(weight.value, dtype=torch.bool) if keep is None else keep)
    weighing = [None] * len(values) if importance is None else parts(importance)
    holds_zero = any(bool((part[alive] == 0).any()) for part, alive in zip(values, kept, strict=True))
    groups = [_group(*each, most - holds_zero) for each in zip(values, kept, weighing, strict=True)]
    channels = torch.arange(weight.value.shape[weight.axis]) // size
    return Clustered(weight, keep, groups, channels if len(groups) > 1 else None)


def _group(values: Tensor, keep: Tensor, importance: Tensor | None, most: int) -> Group:
    other = keep & (values != 0)
    numbers = values[other].double().cpu().numpy()
    weights = None if importance is None else importance[other].double().cpu().numpy()
    found = cluster(numbers, most, weights) if len(numbers) else cluster(np.zeros(1), 1)
    return Group(found, int(keep.sum()), int(keep.sum() - other.sum()))


def numbers_within(found: list[Clustered], bits_per_weight: float) -> list[int]:
    """Return the numbers of codes, of each weight, whose errors are least together within a budget of bits for each entry.

    Raises:
        LaconicError: two codes for each weight are more already; says how many bits they take.
    """
    entries = sum(each.entries for each in found)
    items = [[(each.bits(codes), each.error(codes)) for codes in range(2, each.most + 1)] for each in found]
    chosen = allocate(items, int(bits_per_weight * entries))
    if chosen is None:
        least = sum(min(bits for bits, _ in options) for options in items) / entries
        raise LaconicError(f"bits_per_weight={bits_per_weight:g} is too few: with two codes in each weight it takes {least:.3g}")
    return [2 + position for position in chosen.choice]
