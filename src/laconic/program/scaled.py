"""Quantizers with scales: equally spaced levels, and tables of levels; one scale per tensor, per channel, or per group of entries."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from laconic.numeric.codebook import nearest
from laconic.numeric.learned_step import learned_step, nearest_multiple
from laconic.numeric.rounding import broadcast, consecutive_groups, levels, through
from laconic.program.forms import Quantizer


class Scaled(Quantizer):
    """What quantizers with scales share.

    The scale is a parameter. Its gradient is that of learned step sizes (S. Esser et al., "Learned Step Size Quantization", ICLR 2020,
    eq. 3).
    """

    scale: nn.Parameter
    group: Tensor | None

    def __init__(self, scale: Tensor, axis: int | None, group: Tensor | None) -> None:
        """Take the scales.

        Args:
            scale: positive; scalar, one per channel along `axis`, or `(channels, groups)`.
            axis: the channel axis; None for one scale per tensor.
            group: the group of each entry of a channel, of the shape of the tensor without `axis`; None: there are no groups.
        """
        super().__init__()
        self.axis = axis
        self.scale = nn.Parameter(scale.detach().float().clone())
        self.register_buffer("group", None if group is None else group.detach().long().clone())

    @property
    def name(self) -> str:
        """What recipes and runtimes call the form, e.g. `int8`, `grouped nf4`."""
        return self.format if self.group is None else f"grouped {self.format}"

    @property
    def step(self) -> Tensor:
        """The scale, positive whatever training made of the parameter."""
        return self.scale.abs().clamp_min(torch.finfo(torch.float32).tiny)

    @property
    @abstractmethod
    def is_symmetric(self) -> bool:
        """Whether the level of -x is always minus that of x."""

    @property
    @abstractmethod
    def holds_zero(self) -> bool:
        """Whether 0.0 is a level."""

    def spread(self, values: Tensor, dense: Tensor) -> Tensor:
        """Shape `values`, one for each scale, so that they multiply `dense`."""
        return broadcast(values, dense, self.axis, self.group)

    def trained_step(self, dense: Tensor, highest: float) -> Tensor:
        """Return the step, shaped for `dense`.

        Its gradient is scaled by `1 / sqrt(entries per step * highest level)` (Esser et al. 2020, section 2.2).
        """
        share = (dense.numel() / self.scale.numel() * highest) ** -0.5
        return self.spread(through(self.step, self.step * share), dense)

    def select(self, axis: int, index: Tensor) -> Self:
        """Return the quantizer of the cut tensor: the entries that stay keep their scales."""
        if axis == self.axis:
            return self._with(lambda values: values[index], self.group)
        if self.group is None or self.axis is None:
            return self._with(lambda values: values, None)
        stay, group = self.group.index_select(axis - (axis > self.axis), index).unique(return_inverse=True)
        return self._with(lambda values: values[:, stay], group)

    @abstractmethod
    def _with(self, pick: Callable[[Tensor], Tensor], group: Tensor | None) -> Self:
        """Return this quantizer with the scales that `pick` chooses, and other groups."""

    def by_entry(self, dense: Tensor) -> Self:
        """Return the quantizer of `dense` laid out as (channels, entries), with a scale for each entry; channels are its first axis."""
        made = self._with(lambda values: self.spread(values, dense).expand_as(dense).flatten(1), torch.arange(dense[0].numel()))
        made.axis = 0
        return made

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the scales, and the groups where they are not consecutive entries, as many in each."""
        found = {"scale": self.step.detach().cpu().numpy()}
        if self.group is not None and not self.is_even(self.group.cpu()):
            found["group"] = self.group.cpu().numpy().astype(np.uint8 if self.scale.shape[1] <= 256 else np.int32)
        return found

    def is_even(self, group: Tensor) -> bool:
        """Say whether `group`, of each entry of a channel, are consecutive entries, as many in each."""
        groups = self.scale.shape[1]
        return group.numel() % groups == 0 and torch.equal(group, consecutive_groups(tuple(group.shape), groups))

    @classmethod
    def restore(cls, arrays: dict[str, NDArray[Any]], settings: dict[str, Any], shape: tuple[int, ...]) -> Self:
        """Return the quantizer of a tensor of `shape` that gave `arrays` and `settings`."""
        axis, scale = settings["axis"], arrays["scale"]
        if scale.ndim == 2 and "group" not in arrays:
            arrays = {**arrays, "group": consecutive_groups((*shape[:axis], *shape[axis + 1 :]), scale.shape[1]).numpy()}
        return super().restore(arrays, settings, shape)


class Uniform(Scaled):
    """Quantize to equally spaced levels and back: `(clamp(round(x / scale) + zero_point) - zero_point) * scale`.

    The gradient passes rounding unchanged (straight-through, Y. Bengio et al., arXiv:1308.3432) and stops where values are clipped.
    """

    zero_point: Tensor

    def __init__(
        self,
        scale: Tensor,
        zero_point: Tensor | None = None,
        bits: int = 8,
        signed: bool = True,
        axis: int | None = None,
        group: Tensor | None = None,
        narrow: bool = False,
    ) -> None:
        """Take the grid.

        Args:
            scale: distance between levels; scalar, one per channel along `axis`, or `(channels, groups)`; positive.
            zero_point: the code of 0.0, a whole number within the range of codes; same shape as `scale`; None: zeros.
            bits: width of a code.
            signed: codes from -2^(bits-1), or from 0.
            axis: the channel axis of `scale`; None for one scale per tensor.
            group: the group of each entry of a channel, of the shape of the tensor without `axis`; None: there are no groups.
            narrow: whether the lowest code is unused; signed codes have as many levels below 0 as above then.
        """
        super().__init__(scale, axis, group)
        self.bits, self.signed, self.narrow, self.format = bits, signed, narrow, f"{'int' if signed else 'uint'}{bits}"
        zero_point = torch.zeros_like(scale) if zero_point is None else zero_point
        self.register_buffer("zero_point", zero_point.detach().float().clone())

    @property
    def base(self) -> int:
        """How many codes there are."""
        return 1 << self.bits

    @property
    def is_symmetric(self) -> bool:
        """Whether codes go as far below 0 as above."""
        return self.signed and self.narrow and not bool(self.zero_point.any())

    @property
    def holds_zero(self) -> bool:
        """Always: it is the level of the zero point."""
        return True

    def settings(self) -> dict[str, Any]:
        """Return width, sign, axis and whether the lowest code is unused."""
        return {"bits": self.bits, "signed": self.signed, "axis": self.axis, "narrow": self.narrow}

    def _grid(self, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Return step and zero point shaped for `dense`."""
        top = levels(self.bits, self.signed)[1]
        return self.trained_step(dense, max(top, 1)), self.spread(self.zero_point, dense)

    def codes(self, dense: Tensor) -> Tensor:
        """Return the whole-number code of every entry, signed where the grid is, as float."""
        low, high = levels(self.bits, self.signed)
        scale, zero_point = self._grid(dense)
        return nearest_multiple(dense.float() / scale, low + self.narrow - zero_point, high - zero_point) + zero_point

    def forward(self, dense: Tensor) -> Tensor:
        """Return the nearest level to every entry."""
        low, high = levels(self.bits, self.signed)
        scale, zero_point = self._grid(dense)
        return learned_step(dense, scale, low + self.narrow - zero_point, high - zero_point)

    def encode(self, dense: Tensor) -> Tensor:
        """Return the code of every entry, counted from 0."""
        return (self.codes(dense) - levels(self.bits, self.signed)[0]).int()

    def decode(self, codes: Tensor) -> Tensor:
        """Return what codes stand for."""
        shifted = codes + levels(self.bits, self.signed)[0] - self.spread(self.zero_point, codes)
        return shifted * self.spread(self.step, codes)

    def _with(self, pick: Callable[[Tensor], Tensor], group: Tensor | None) -> "Uniform":
        return Uniform(pick(self.scale), pick(self.zero_point), self.bits, self.signed, self.axis, group, self.narrow)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return scales, uneven groups, and zero points where one is not 0."""
        if not self.zero_point.any():
            return super().arrays()
        narrow = np.int8 if self.signed else np.uint8
        return {**super().arrays(), "zero_point": self.zero_point.cpu().numpy().astype(narrow if self.bits <= 8 else np.int32)}


class Codebook(Scaled):
    """Quantize to a table of levels times a scale: `scale * nearest level to (x / scale)`.

    The levels -1 and 1 are binary, -1, 0 and 1 ternary. The gradient passes unchanged inside the range of the levels and stops outside
    (I. Hubara et al., "Binarized Neural Networks", NeurIPS 2016). With two levels it passes everywhere, or else half of the weights would
    be lost to training when it starts, for their scale is their mean magnitude; and the scale's own derivative is then exact, since the
    signs do not depend on it (S. Zhou et al., "DoReFa-Net", arXiv:1606.06160, section 2.3).
    """

    levels: Tensor

    def __init__(
        self, scale: Tensor, levels: Tensor, format: str = "codebook", axis: int | None = None, group: Tensor | None = None
    ) -> None:
        """Take the table.

        Args:
            scale: what the levels are multiplied by; scalar, one per channel along `axis`, or `(channels, groups)`; positive.
            levels: ascending, within [-1, 1].
            format: what recipes and runtimes call the table.
            axis: the channel axis of `scale`; None for one scale per tensor.
            group: the group of each entry of a channel, of the shape of the tensor without `axis`; None: there are no groups.
        """
        super().__init__(scale, axis, group)
        self.format = format
        self.register_buffer("levels", levels.detach().float().clone())

    @property
    def base(self) -> int:
        """How many codes there are."""
        return len(self.levels)

    @property
    def is_symmetric(self) -> bool:
        """Whether the table is."""
        return torch.equal(self.levels, -self.levels.flip(0))

    @property
    def holds_zero(self) -> bool:
        """Whether the table does."""
        return bool((self.levels == 0).any())

    def settings(self) -> dict[str, Any]:
        """Return the table's name and the axis."""
        return {"format": self.format, "axis": self.axis}

    def encode(self, dense: Tensor) -> Tensor:
        """Return the position of the nearest level to every entry."""
        return nearest(dense.float() / self.spread(self.step, dense), self.levels)

    def decode(self, codes: Tensor) -> Tensor:
        """Return what codes stand for."""
        return self.levels[codes] * self.spread(self.step, codes)

    def forward(self, dense: Tensor) -> Tensor:
        """Return the nearest level to every entry, times its scale."""
        scale = self.trained_step(dense, 1.0)
        if len(self.levels) == 2:
            return (self.levels[self.encode(dense)] * scale).to(dense.dtype) + (dense - dense.detach())
        inside = torch.clamp(dense.float() / scale, self.levels[0], self.levels[-1])
        return (through(self.levels[self.encode(dense)], inside) * scale).to(dense.dtype)

    def whole(self) -> Uniform | None:
        """Return the grid of whole numbers that holds all levels, of few bits; None: there is none of 8 bits or fewer."""
        for finer in range(1, 128):
            multiples = self.levels.double() * finer
            if torch.allclose(multiples, multiples.round(), rtol=0, atol=1e-6):
                return Uniform(self.step / finer, None, finer.bit_length() + 1, True, self.axis, self.group, narrow=True)
        return None

    def _with(self, pick: Callable[[Tensor], Tensor], group: Tensor | None) -> "Codebook":
        return Codebook(pick(self.scale), self.levels, self.format, self.axis, group)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return scales, uneven groups and the table."""
        return {**super().arrays(), "levels": self.levels.cpu().numpy()}
