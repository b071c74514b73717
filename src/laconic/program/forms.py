"""Forms that a tensor is kept in: small modules, dense in and dense out. Here: masks, quantizers in general, and 16-bit floating point."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from laconic.numeric.rounding import through


class Representation(nn.Module):
    """Dense in, dense out. Subclasses say how they are called, cut and saved."""

    format: str

    @property
    def name(self) -> str:
        """What recipes and runtimes call the form."""
        return self.format

    def right_inverse(self, dense: Tensor) -> Tensor:
        """Return what is to be stored so that the view becomes `dense` (as near as the form allows)."""
        return dense

    def select(self, axis: int, index: Tensor) -> Self:
        """Return this representation for the tensor cut to `index` along `axis`."""
        raise TypeError(f"{type(self).__name__} does not say how it is cut")

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments that are not tensors, as plain data."""
        return {}


class Mask(Representation):
    """Hold entries at zero: `dense * keep`. Their gradient is zero, so training cannot bring them back."""

    keep: Tensor
    format = "sparse"

    def __init__(self, keep: Tensor) -> None:
        """Take a boolean tensor of the weight's shape, True where the entry stays."""
        super().__init__()
        self.register_buffer("keep", keep.detach().bool())

    def forward(self, dense: Tensor) -> Tensor:
        """Return `dense` with zeros where the mask is False."""
        return torch.where(self.keep, dense, torch.zeros((), dtype=dense.dtype, device=dense.device))

    def select(self, axis: int, index: Tensor) -> "Mask":
        """Return the mask of the cut tensor."""
        return Mask(self.keep.index_select(axis, index))


class Quantizer(Representation, ABC):
    """Keep every entry as a code, a whole number from 0 to `base - 1`. The view is `decode(encode(dense))`, but for its gradient."""

    @property
    @abstractmethod
    def base(self) -> int:
        """How many codes there are."""

    @abstractmethod
    def encode(self, dense: Tensor) -> Tensor:
        """Return the code of every entry."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Return what codes, in the shape of the tensor, stand for, in float32."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is kept beside the codes, each under the name of the constructor's argument; what `restore` can tell is left out."""
        return {}

    @classmethod
    def restore(cls, arrays: dict[str, NDArray[Any]], settings: dict[str, Any], shape: tuple[int, ...]) -> Self:
        """Return the quantizer of a tensor of `shape` that gave `arrays` and `settings`."""
        return cls(**{key: torch.from_numpy(array) for key, array in arrays.items()}, **settings)


_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Half(Quantizer):
    """Round to 16-bit floating point. What is beyond its range becomes its largest number; the gradient passes inside the range."""

    def __init__(self, format: str) -> None:
        """Take `float16` or `bfloat16`."""
        super().__init__()
        self.format, self.dtype = format, _HALVES[format]

    @property
    def base(self) -> int:
        """How many codes there are: the patterns of 16 bits."""
        return 1 << 16

    def settings(self) -> dict[str, Any]:
        """Return the format."""
        return {"format": self.format}

    def _inside(self, dense: Tensor) -> Tensor:
        largest = torch.finfo(self.dtype).max
        return torch.clamp(dense.float(), -largest, largest)

    def encode(self, dense: Tensor) -> Tensor:
        """Return the 16 bits of every rounded entry, as a whole number."""
        return self._inside(dense).to(self.dtype).view(torch.int16).int() & 0xFFFF

    def decode(self, codes: Tensor) -> Tensor:
        """Return the numbers whose bits are given."""
        return ((codes.int() ^ 0x8000) - 0x8000).to(torch.int16).view(self.dtype).float()

    def forward(self, dense: Tensor) -> Tensor:
        """Return the nearest number of 16 bits to every entry."""
        inside = self._inside(dense)
        return through(inside.to(self.dtype).float(), inside).to(dense.dtype)

    def select(self, axis: int, index: Tensor) -> "Half":
        """Return the form of the cut tensor: the same."""
        return Half(self.format)


def quantizer_of(forms: Iterable[Representation]) -> Quantizer | None:
    """Return the quantizer whose levels a tensor kept in `forms` takes: the last; None: there is none."""
    quantizers = [form for form in forms if isinstance(form, Quantizer)]
    return quantizers[-1] if quantizers else None


def kept(forms: Iterable[Representation]) -> Tensor | None:
    """Return where no mask of `forms` holds a zero; None: no entry is held."""
    masks = [form.keep for form in forms if isinstance(form, Mask) and not bool(form.keep.all())]
    return torch.stack(masks).all(0) if masks else None
