"""Shared weights: every entry is a code into a codebook of centroids, which are trained in place of the entries.

Source: S. Han, H. Mao, W. Dally, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman
Coding", ICLR 2016, section 3.
"""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from laconic.numeric.codebook import nearest
from laconic.numeric.rounding import consecutive_groups
from laconic.program.forms import Quantizer


class Shared(Quantizer):
    """Take every entry from a codebook: the view is `codebook[codes]`, so a centroid's gradient is the sum over its entries (eq. 3).

    Codes stay as they are when centroids are trained. Only when the tensor is given another value do its entries get the nearest
    centroids. Code 0 may stand for exactly 0.0, which is no centroid and so not trained.
    """

    codes: Tensor
    group: Tensor | None
    format = "shared"

    def __init__(self, codebook: Tensor, codes: Tensor, axis: int = 0, group: Tensor | None = None, holds_zero: bool = False) -> None:
        """Take centroids and codes.

        Args:
            codebook: centroids, `(groups, centroids)`, in any order.
            codes: of every entry, in the shape of the tensor; those of centroids count from 1 where 0 is held.
            axis: the channel axis.
            group: the group of each channel, `(channels,)`; None: there is one group.
            holds_zero: whether code 0 is 0.0, in every group.
        """
        super().__init__()
        self.axis, self.holds_zero = axis, holds_zero
        self.codebook = nn.Parameter(codebook.detach().float().clone())
        self.register_buffer("codes", codes.detach().int().clone())
        self.register_buffer("group", None if group is None else group.detach().long().clone())

    @property
    def base(self) -> int:
        """How many codes there are in a group."""
        return self.codebook.shape[1] + self.holds_zero

    def settings(self) -> dict[str, Any]:
        """Return the channel axis and whether 0 is held."""
        return {"axis": self.axis, "holds_zero": self.holds_zero}

    def encode(self, dense: Tensor) -> Tensor:
        """Return the code of every entry: they are what is kept."""
        return self.codes

    def decode(self, codes: Tensor) -> Tensor:
        """Return what codes stand for."""
        return self._looked_up(self.levels, codes)

    @property
    def levels(self) -> Tensor:
        """What each code of each group stands for, `(groups, base)`."""
        return torch.cat([torch.zeros_like(self.codebook[:, :1]), self.codebook], 1) if self.holds_zero else self.codebook

    @torch.no_grad()
    def ranks(self, codes: Tensor) -> Tensor:
        """Return codes as places of their levels: 1, 2, ... above 0 from the smallest, -1, -2, ... below 0, and 0 for a level of 0."""
        levels = self.levels
        order = levels.argsort(dim=1, stable=True).argsort(dim=1)
        below, zeros = (levels < 0).sum(1, keepdim=True), (levels == 0).sum(1, keepdim=True)
        ranks = torch.where(levels > 0, order - below - zeros + 1, torch.where(levels < 0, order - below, 0))
        return self._looked_up(ranks, codes)

    @torch.no_grad()
    def codes_of(self, ranks: Tensor) -> Tensor:
        """Return the codes of such places, the inverse of `ranks`.

        Raises:
            IndexError: there is no such place.
        """
        levels = self.levels
        below, zeros = (levels < 0).sum(1), (levels == 0).sum(1)
        first, behind = (count if self.group is None else self._spread(count[self.group], ranks.ndim) for count in (below, below + zeros))
        places = torch.where(ranks > 0, ranks + behind - 1, ranks + first)
        if ((places < 0) | (places >= self.base) | ((ranks == 0) & (first == behind))).any():
            raise IndexError("a place is beyond the codebook")
        return self._looked_up(levels.argsort(dim=1, stable=True), places)

    def _looked_up(self, table: Tensor, codes: Tensor) -> Tensor:
        """Return what a table `(groups, base)` has for the code of every entry."""
        position = codes.long() if self.group is None else codes + self._spread(self.group * self.base, codes.ndim)
        return table.flatten().index_select(0, position.flatten()).reshape(codes.shape)

    def forward(self, dense: Tensor) -> Tensor:
        """Return the centroid of every entry, whatever is stored below."""
        return self.decode(self.codes).to(dense.dtype)

    def right_inverse(self, dense: Tensor) -> Tensor:
        """Give every entry of `dense` the code of its nearest centroid, and return it."""
        self.codes = self.nearest(dense)
        return dense

    @torch.no_grad()
    def nearest(self, dense: Tensor) -> Tensor:
        """Return, for every entry, the code of the nearest centroid, or of 0 where it is held and the entry is 0."""
        rows = dense.detach().float().movedim(self.axis, 0)
        found = torch.empty_like(rows, dtype=torch.int32)
        group = torch.zeros(len(rows), dtype=torch.long, device=rows.device) if self.group is None else self.group
        for number, centroids in enumerate(self.codebook):
            ascending, order = centroids.sort()
            found[group == number] = order[nearest(rows[group == number], ascending)].int() + self.holds_zero
        if self.holds_zero:
            found[rows == 0] = 0
        return found.movedim(0, self.axis).contiguous()

    def select(self, axis: int, index: Tensor) -> "Shared":
        """Return the form of the cut tensor: entries keep their codes; groups of which nothing stays go."""
        codes, group = self.codes.index_select(axis, index), self.group
        codebook: Tensor = self.codebook
        if group is not None and axis == self.axis:
            stay, group = group[index].unique(return_inverse=True)
            codebook = codebook[stay]
        return Shared(codebook, codes, self.axis, group, self.holds_zero)

    def _spread(self, values: Tensor, dimensions: int) -> Tensor:
        """Shape values of channels for a tensor of so many dimensions."""
        return values.reshape([-1 if axis == self.axis else 1 for axis in range(dimensions)])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the codebook, and the groups where they are not consecutive channels, as many in each."""
        found = {"codebook": self.codebook.detach().cpu().numpy()}
        group = None if self.group is None else self.group.cpu()
        if group is not None and not _is_even(group, len(self.codebook)):
            found["group"] = group.numpy().astype(np.uint8 if len(self.codebook) <= 256 else np.int32)
        return found

    @classmethod
    def restore(cls, arrays: dict[str, NDArray[Any]], settings: dict[str, Any], shape: tuple[int, ...]) -> Self:
        """Return the form of a tensor of `shape` that gave `arrays` and `settings`; its codes are set when the tensor is given to it."""
        groups, channels = len(arrays["codebook"]), shape[settings["axis"]]
        if groups > 1 and "group" not in arrays:
            arrays = {**arrays, "group": consecutive_groups((channels,), groups).numpy()}
        return super().restore({**arrays, "codes": np.zeros(shape, np.int32)}, settings, shape)


def _is_even(group: Tensor, groups: int) -> bool:
    return len(group) % groups == 0 and torch.equal(group, consecutive_groups(tuple(group.shape), groups))
