"""Tensors in their deployable form: codes at their true width, without the entries that a mask holds at zero."""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from laconic.numeric.packing import pack, unpack
from laconic.program.encode import NAMED
from laconic.program.forms import Mask, Quantizer, Representation, kept, quantizer_of
from laconic.program.program import Program, read
from laconic.program.represent import REPRESENTATIONS, edges, graph_name, representations, tensor_names


@dataclass(frozen=True)
class Packed:
    """A tensor as flat arrays by name, and what is needed to read them.

    `values` are the codes of the entries, `keep` has a bit for each: those that it holds at zero have no code. Other arrays are the
    quantizer's.
    """

    shape: tuple[int, ...]
    dtype: str  # of the dense tensor, e.g. "torch.float32"
    arrays: dict[str, NDArray[Any]]
    form: str | None = None  # name of the quantizer's class; None: `values` are numbers as they are
    settings: dict[str, Any] = field(default_factory=dict)  # of the quantizer

    @property
    def bytes(self) -> int:
        """What the arrays cost."""
        return sum(array.nbytes for array in self.arrays.values())

    def quantizer(self) -> Quantizer | None:
        """Return the quantizer, made anew."""
        if self.form is None:
            return None
        made = REPRESENTATIONS[self.form]
        assert issubclass(made, Quantizer)
        return made.restore({key: array for key, array in self.arrays.items() if key not in ("values", "keep")}, self.settings, self.shape)

    def keep(self) -> Tensor | None:
        """Return where entries are not held at zero; None: everywhere."""
        if "keep" not in self.arrays:
            return None
        return torch.from_numpy(np.unpackbits(self.arrays["keep"], count=prod(self.shape)).astype(bool).reshape(self.shape))

    def forms(self) -> list[Representation]:
        """Return the representations, made anew, in an order that gives this tensor back: the quantizer, then the mask."""
        quantizer, keep = self.quantizer(), self.keep()
        return [form for form in (quantizer, None if keep is None else Mask(keep)) if form is not None]


def packed(program: nn.Module, name: str) -> Packed:
    """Return the tensor called `name` in its deployable form."""
    dense, forms = read(program, graph_name(program, name)).detach(), representations(program, name)
    quantizer, keep = quantizer_of(forms), kept(forms)
    arrays = {} if quantizer is None else quantizer.arrays()
    values = (_numbers(dense) if quantizer is None else quantizer.encode(dense).detach()).cpu().numpy().ravel()
    if keep is not None:
        flat = keep.cpu().numpy().ravel()
        values, arrays["keep"] = values[flat], np.packbits(flat)
    shape, dtype = tuple(dense.shape), str(dense.dtype)
    if quantizer is None:
        return Packed(shape, dtype, {**arrays, "values": values.copy()})
    return Packed(shape, dtype, {**arrays, "values": pack(values, quantizer.base)}, type(quantizer).__name__, quantizer.settings())


def _numbers(dense: Tensor) -> Tensor:
    """Return a tensor as one that NumPy knows: bfloat16 as its bits."""
    return dense.view(torch.int16) if dense.dtype == torch.bfloat16 else dense


@torch.no_grad()
def unpacked(packed: Packed) -> Tensor:
    """Return the dense tensor that `packed` stands for, to the bit."""
    quantizer, keep, dtype = packed.quantizer(), packed.keep(), NAMED["dtype"][packed.dtype]
    mask = torch.ones(packed.shape, dtype=torch.bool) if keep is None else keep
    values = packed.arrays["values"] if quantizer is None else unpack(packed.arrays["values"], quantizer.base, int(mask.sum()))
    whole = np.zeros(mask.numel(), values.dtype)
    whole[mask.numpy().ravel()] = values
    table = torch.from_numpy(whole.reshape(packed.shape))
    dense = table.view(dtype) if quantizer is None else quantizer.decode(table).to(dtype)
    return torch.where(mask, dense, torch.zeros((), dtype=dtype))


def packed_bytes(program: Program) -> int:
    """Return the bytes of all tensors that the graph reads, each in its deployable form, ties counted once, and of the grids on edges."""
    grids = {id(form): form for form in edges(program).values()}
    scales: int = sum(tensor.numel() * tensor.element_size() for form in grids.values() for tensor in form.state_dict().values())
    return scales + sum(packed(program, name).bytes for name in tensor_names(program))
