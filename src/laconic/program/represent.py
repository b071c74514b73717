"""Representations: small modules, dense in and dense out, that say in which form a tensor is kept.

A mask or a quantizer is registered with `torch.nn.utils.parametrize` on the module that holds the weight, so the graph always reads
the dense view and any later step composes. The same quantizer stands on an edge of the graph for activations. `packed` gives the bytes that
the form really costs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from laconic.numeric.rounding import broadcast, levels, pack_bits, round_through, unpack_bits
from laconic.program.program import Program, holder, place, read

_EDGES = "_edges"  # where representations of activations are held


@dataclass(frozen=True)
class Packed:
    """A tensor in its deployable form: flat arrays by name, and what is needed to read them."""

    shape: tuple[int, ...]
    arrays: dict[str, NDArray[Any]]
    bits: int | None = None  # of each code in `values`, which is then a string of bits; None: `values` are numbers as they are
    signed: bool = True  # codes are stored from 0; signed ones are shifted by 2^(bits-1)
    axis: int | None = None  # of the scales
    bfloat16: bool = False  # whether `values` are the 16 bits of bfloat16 numbers, which NumPy lacks

    @property
    def bytes(self) -> int:
        """What the arrays cost."""
        return sum(array.nbytes for array in self.arrays.values())


class Representation(nn.Module):
    """Dense in, dense out. Subclasses say how they are kept, cut and saved."""

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


class Uniform(Representation):
    """Quantize to equally spaced levels and back: `(clamp(round(x / scale) + zero_point) - zero_point) * scale`.

    The gradient passes rounding unchanged (straight-through, Y. Bengio et al., arXiv:1308.3432) and stops where values are
    clipped. The scale is a parameter: its gradient is that of learned step sizes (S. Esser et al., "Learned Step Size
    Quantization", ICLR 2020, eq. 3).
    """

    scale: nn.Parameter
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor, bits: int = 8, signed: bool = True, axis: int | None = None) -> None:
        """Take the grid.

        Args:
            scale: distance between levels; scalar, or one per channel along `axis`; positive.
            zero_point: the code of 0.0, a whole number within the range of codes; same shape as `scale`.
            bits: width of a code.
            signed: codes from -2^(bits-1), or from 0.
            axis: the channel axis of `scale`; None for one scale per tensor.
        """
        super().__init__()
        self.bits, self.signed, self.axis = bits, signed, axis
        self.scale = nn.Parameter(scale.detach().float().clone())
        self.register_buffer("zero_point", zero_point.detach().float().clone())

    def settings(self) -> dict[str, Any]:
        """Return width, sign and axis."""
        return {"bits": self.bits, "signed": self.signed, "axis": self.axis}

    @property
    def step(self) -> Tensor:
        """The distance between levels, positive whatever training made of the parameter."""
        return self.scale.abs().clamp_min(torch.finfo(torch.float32).tiny)

    def _grid(self, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Return step and zero point shaped for `dense`.

        The step's gradient is scaled by `1 / sqrt(entries per step * highest code)` (Esser et al. 2020, section 2.2).
        """
        top = levels(self.bits, self.signed)[1]
        share = (dense.numel() / self.scale.numel() * max(top, 1)) ** -0.5
        step = self.step.detach() + (self.step - self.step.detach()) * share
        return broadcast(step, dense, self.axis), broadcast(self.zero_point, dense, self.axis)

    def codes(self, dense: Tensor) -> Tensor:
        """Return the whole-number code of every entry, as float."""
        low, high = levels(self.bits, self.signed)
        scale, zero_point = self._grid(dense)
        return round_through(torch.clamp(dense / scale, low - zero_point, high - zero_point)) + zero_point

    def forward(self, dense: Tensor) -> Tensor:
        """Return the nearest level to every entry."""
        scale, zero_point = self._grid(dense)
        return (self.codes(dense) - zero_point) * scale

    def select(self, axis: int, index: Tensor) -> "Uniform":
        """Return the quantizer of the cut tensor; its scales are cut when they lie along `axis`."""
        if axis != self.axis:
            return Uniform(self.scale, self.zero_point, self.bits, self.signed, self.axis)
        return Uniform(self.scale[index], self.zero_point[index], self.bits, self.signed, self.axis)


REPRESENTATIONS: dict[str, type[Representation]] = {"Mask": Mask, "Uniform": Uniform}
"""By the name under which a saved program finds them again."""


def represent(program: Program, name: str, representation: Representation) -> None:
    """Keep the tensor called `name` in the given form from now on; forms registered earlier act first."""
    if "." not in name:
        name = _give_holder(program, name)
    module, attribute = holder(program, name)
    training = module.training
    parametrize.register_parametrization(module, attribute, representation)
    module.train(training)


def _give_holder(program: Program, name: str) -> str:
    """Move a tensor of the root into a module of its own, for a program cannot be parametrized; the old name stays as an alias."""
    moved = f"root.{name}"
    value = program._parameters[name]
    assert value is not None
    place(program, moved, value)
    program.get_submodule("root")._parameters[name] = value
    for node in program.graph.nodes:
        if node.op == "get_attr" and node.target == name:
            node.target = moved
    program.aliases[name] = moved
    program.recompile()
    return moved


def represent_edge(program: Program, node: fx.Node, representation: Representation) -> fx.Node:
    """Put a representation behind `node`: all its readers read the represented value. Returns the new node."""
    if _EDGES not in program._modules:
        program.add_module(_EDGES, nn.Module())
    home = program.get_submodule(_EDGES)
    name = next(name for i in count() if (name := f"{node.name}_{i}" if i else node.name) not in home._modules)
    home.add_module(name, representation)
    return _insert_edge(program, node, f"{_EDGES}.{name}")


def _insert_edge(program: Program, node: fx.Node, target: str) -> fx.Node:
    with program.graph.inserting_after(node):
        edge = program.graph.call_module(target, (node,))
    edge.meta = dict(node.meta)
    node.replace_all_uses_with(edge, delete_user_cb=lambda user: user is not edge)
    return edge


def share_edge(program: Program, node: fx.Node, edge: fx.Node) -> fx.Node:
    """Put the representation of an existing edge behind `node` too: both share one grid. Returns the new node."""
    return _insert_edge(program, node, str(edge.target))


def representations(program: nn.Module, name: str) -> list[Representation]:
    """Return the forms in which the tensor called `name` is kept, in order; empty for a plain tensor."""
    module, attribute = holder(program, _graph_name(program, name))
    if not parametrize.is_parametrized(module, attribute):
        return []
    chain: Any = module.parametrizations
    return list(chain[attribute])


def _graph_name(program: nn.Module, name: str) -> str:
    return program.aliases.get(name, name) if isinstance(program, Program) else name


def represented(program: Program) -> Iterator[tuple[str, list[Representation]]]:
    """Yield the name and forms of every represented tensor that the graph reads."""
    for name in tensor_names(program):
        forms = representations(program, name)
        if forms:
            yield name, forms


def edges(program: Program) -> dict[fx.Node, Representation]:
    """Return the representations that stand on edges, by their node."""
    found = {node: program.get_submodule(str(node.target)) for node in program.graph.nodes if node.op == "call_module"}
    return {node: module for node, module in found.items() if isinstance(module, Representation)}


def tensor_names(program: Program) -> list[str]:
    """Return the names of all tensors that the graph reads, in graph order, each once."""
    return list(dict.fromkeys(str(node.target) for node in program.graph.nodes if node.op == "get_attr"))


def bake(program: Program, name: str) -> None:
    """Make the dense view of a represented tensor permanent; it is a plain parameter again."""
    module, attribute = holder(program, name)
    parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)


def packed(program: nn.Module, name: str) -> Packed:
    """Return the tensor called `name` in its deployable form: codes at their true width, without the entries that a mask holds at zero."""
    name = _graph_name(program, name)
    dense, forms = read(program, name).detach().cpu(), representations(program, name)
    grid = next((form for form in reversed(forms) if isinstance(form, Uniform)), None)
    values = (dense.view(torch.int16) if dense.dtype == torch.bfloat16 else dense).numpy().ravel().copy()
    arrays: dict[str, NDArray[Any]] = {}
    if grid is not None:
        low, _ = levels(grid.bits, grid.signed)
        values = (grid.codes(dense).detach().cpu().numpy().ravel() - low).astype(np.uint16)
        arrays["scale"] = grid.step.detach().cpu().numpy()
        if grid.zero_point.any():
            arrays["zero_point"] = grid.zero_point.cpu().numpy().astype(np.int16)
    masks = [form.keep.cpu().numpy().ravel() for form in forms if isinstance(form, Mask) and not bool(form.keep.all())]
    if masks:
        keep = np.logical_and.reduce(masks)
        values = values[keep]
        arrays["keep"] = np.packbits(keep)
    arrays["values"] = values if grid is None else pack_bits(values, grid.bits)
    if grid is None:
        return Packed(tuple(dense.shape), arrays, bfloat16=dense.dtype == torch.bfloat16)
    return Packed(tuple(dense.shape), arrays, grid.bits, grid.signed, grid.axis)


def unpacked(packed: Packed) -> Tensor:
    """Return the dense tensor that `packed` stands for; the inverse of `packed` up to floating-point rounding of the scales."""
    size = int(np.prod(packed.shape))
    keep = np.unpackbits(packed.arrays["keep"], count=size).astype(bool) if "keep" in packed.arrays else np.ones(size, dtype=bool)
    values = packed.arrays["values"]
    if packed.bits is None:
        dense = np.zeros(size, dtype=values.dtype)
        dense[keep] = values
        tensor = torch.from_numpy(dense.reshape(packed.shape))
        return tensor.view(torch.bfloat16) if packed.bfloat16 else tensor
    codes = np.zeros(size, dtype=np.float32)
    codes[keep] = unpack_bits(values, packed.bits, int(keep.sum()))
    table = torch.from_numpy(codes.reshape(packed.shape)) + levels(packed.bits, packed.signed)[0]
    scale = torch.from_numpy(packed.arrays["scale"])
    zero_point = torch.from_numpy(packed.arrays.get("zero_point", np.zeros(scale.shape)).astype(np.float32))
    dequantized = (table - broadcast(zero_point, table, packed.axis)) * broadcast(scale, table, packed.axis)
    return torch.where(torch.from_numpy(keep.reshape(packed.shape)), dequantized, torch.zeros(()))


def packed_bytes(program: Program) -> int:
    """Return the bytes of all tensors that the graph reads, each in its deployable form, ties counted once, and of the grids on edges."""
    grids = {id(form): form for form in edges(program).values()}
    scales: int = sum(tensor.numel() * tensor.element_size() for form in grids.values() for tensor in form.state_dict().values())
    return scales + sum(packed(program, name).bytes for name in tensor_names(program))
