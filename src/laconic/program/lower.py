"""Lowering for export: quantizers become integer tensors and explicit quantize and dequantize operations.

The operations defined here have the meaning of ONNX's QuantizeLinear, DequantizeLinear and Clip; a runtime's exporter translates
them one to one, so what the file holds is an integer tensor, not a float one that was rounded.

A grid of fewer than 8 bits is kept in 8-bit codes of which it uses a part. Quantizing stops at the limits of 8 bits, so its codes are
clipped to their own limits behind it. An activation that is bounded on the way to the grid (ReLU, ReLU6, hardtanh, clamp) becomes
such limits too: rounding keeps the order, so clipping before it and clipping its codes are the same.
"""

from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, fx

from laconic.numeric.rounding import broadcast, levels
from laconic.program.forms import Quantizer, Representation, quantizer_of
from laconic.program.program import Program, clone, place, read, tidy
from laconic.program.represent import bake, edges, representations, represented
from laconic.program.scaled import Codebook, Uniform
from laconic.program.walk import argument

aten = torch.ops.aten

_PADDING = (aten.pad.default, aten.constant_pad_nd.default)
ANY_GROUPS = "groups of any size"
"""Among what a runtime executes: scales for groups that are no blocks of 16 entries too."""

_BLOCK = 16  # entries that kernels for groups work on at once
ALONE = ("linear", "embedding")  # kinds of layers that runtimes execute with codes under float activations
_ALONE = (aten.linear.default, aten.embedding.default)

_library = torch.library.Library("laconic", "DEF")
_library.define("quantize(Tensor x, Tensor scale, Tensor zero_point, int axis) -> Tensor")
_library.define("dequantize(Tensor codes, Tensor scale, Tensor zero_point, int axis) -> Tensor")
_library.define("clip(Tensor codes, Tensor low, Tensor high) -> Tensor")


def _quantize(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    limits = torch.iinfo(zero_point.dtype)
    codes = torch.round(x / broadcast(scale, x, axis)) + broadcast(zero_point, x, axis).to(x.dtype)
    return torch.clamp(codes, limits.min, limits.max).to(zero_point.dtype)


def _dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    shifted = codes.to(scale.dtype) - _spread(zero_point, codes, axis).to(scale.dtype)
    return shifted * _spread(scale, codes, axis)


def _spread(values: Tensor, codes: Tensor, axis: int) -> Tensor:
    """Shape scales for codes: one for all, one per channel along `axis`, or, with as many dimensions, one per block along `axis`."""
    blocked = values.ndim == codes.ndim > 1
    return values.repeat_interleave(codes.shape[axis] // values.shape[axis], axis) if blocked else broadcast(values, codes, axis)


def _clip(codes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.clamp(codes, low, high)


def _clip_shape(codes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.empty_like(codes)


def _quantize_shape(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x, dtype=zero_point.dtype)


def _dequantize_shape(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty_like(codes, dtype=scale.dtype)


_library.impl("quantize", _quantize, "CompositeExplicitAutograd")
_library.impl("dequantize", _dequantize, "CompositeExplicitAutograd")
_library.impl("clip", _clip, "CompositeExplicitAutograd")
torch.library.register_fake("laconic::quantize", _quantize_shape, lib=_library)
torch.library.register_fake("laconic::dequantize", _dequantize_shape, lib=_library)
torch.library.register_fake("laconic::clip", _clip_shape, lib=_library)

quantize: Any = torch.ops.laconic.quantize.default
dequantize: Any = torch.ops.laconic.dequantize.default
clip: Any = torch.ops.laconic.clip.default


@dataclass(frozen=True)
class Lowered:
    """A program ready for a runtime: plain tensors and explicit integer operations."""

    program: Program
    integer_weights: tuple[str, ...]  # names of the tensors that hold whole-number codes
    narrow_weights: tuple[str, ...]  # those of them that have 4 bits or fewer and stand under float activations
    baked: tuple[str, ...]  # what the runtime does not execute in its form and is written dense, in words


def unsupported(program: Program, keeps: frozenset[str]) -> tuple[str, ...]:
    """Say, before any work, what a runtime that executes `keeps` would not keep in its form."""
    weights = [
        (name, form) for name, forms in represented(program) for form in forms if not _is_kept(program, name, in_whole_numbers(form), keeps)
    ]
    activations = [(str(node), form.name) for node, form in edges(program).items()]
    found = [f"{name}: {_word(program, name, form, keeps)}" for name, form in weights]
    return tuple(found + [f"{name}: activations {word}" for name, word in activations if word not in keeps])


def in_whole_numbers(form: Representation) -> Representation:
    """Return the grid of whole numbers that a table of levels lies on, where there is one, such as of binary weights; else the form."""
    return form.whole() or form if isinstance(form, Codebook) else form


def _is_kept(program: Program, name: str, form: Representation, keeps: frozenset[str]) -> bool:
    """Say whether a weight's form is in `keeps`; under float activations only where runtimes multiply by codes or look rows up in them."""
    if not is_word_kept(_word(program, name, form, keeps), keeps):
        return False
    if not isinstance(form, Uniform) or (form.name in keeps and _meets_integers(program, name, keeps)):
        return True
    readers = {user.target for node in program.graph.nodes if node.op == "get_attr" and node.target == name for user in node.users}
    return readers <= set(_ALONE) and (form.group is None or (form.axis == 0 and _has_equal_groups(form)))


def _has_equal_groups(form: Uniform) -> bool:
    """Say whether the groups of every channel are as many consecutive entries each."""
    assert form.group is not None
    return form.group.ndim == 1 and form.is_even(form.group)


def _word(program: Program, name: str, form: Representation, keeps: frozenset[str]) -> str:
    """Name a form of a weight: `int8` beside activations that are kept as integers too, `int8 weights` alone."""
    if not isinstance(form, Quantizer) or _meets_integers(program, name, keeps):
        return form.name
    grid = in_whole_numbers(form)
    group_size = grid.group.numel() // grid.scale.shape[1] if isinstance(grid, Uniform) and grid.group is not None else None
    return weights_word(form.name, group_size)


def weights_word(name: str, group_size: int | None = None) -> str:
    """Name a form of weights under float activations, with the size of groups that are no blocks of 16, for which runtimes have no kernels.

    >>> weights_word("int4"), weights_word("grouped int4", 32), weights_word("grouped int4", 24)
    ('int4 weights', 'grouped int4 weights', 'grouped int4 weights in groups of 24')
    """
    return f"{name} weights" + (f" in groups of {group_size}" if group_size and group_size % _BLOCK else "")


def is_word_kept(word: str, keeps: frozenset[str]) -> bool:
    """Say whether a form is among those that a runtime executes."""
    return word in keeps or (ANY_GROUPS in keeps and word.partition(" in groups of ")[0] in keeps)


def _meets_integers(program: Program, name: str, keeps: frozenset[str]) -> bool:
    """Say whether a reader of the tensor called `name` has a kept quantizer before its first input; padding may lie between."""
    kept = {node for node, form in edges(program).items() if form.name in keeps}
    readers = [user for node in program.graph.nodes if node.op == "get_attr" and node.target == name for user in node.users]
    return any(_before_padding(reader.all_input_nodes[0]) in kept for reader in readers)


def _before_padding(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0] if node.target in _PADDING else node


def lower(program: Program, keeps: frozenset[str]) -> Lowered:
    """Return a copy of `program` whose quantizers named in `keeps` (`int8`, `uint4`, ...) are integer operations; other forms are dense.

    In `keeps`, `int8` is a weight whose layer reads integers too, and `int8 weights` one whose layer reads float activations.
    """
    lowered, notes = clone(program).eval(), unsupported(program, keeps)
    grids = {name: grid for name, _ in represented(lowered) if (grid := _kept_grid(lowered, name, keeps))}
    alone = {name for name in grids if not _meets_integers(lowered, name, keeps)}
    integers = {name: _lower_weight(lowered, name, grid, name in alone) for name, grid in grids.items()}
    for name, _ in list(represented(lowered)):
        bake(lowered, name)
    on_grid = set[str]()  # the first edge of a grid in graph order feeds all others that share it
    for node, form in edges(lowered).items():
        if isinstance(form, Uniform) and form.name in keeps:
            _lower_edge(lowered, node, form, clipped=str(node.target) in on_grid)
            on_grid.add(str(node.target))
    tidy(lowered)
    narrow = tuple(codes for name, codes in integers.items() if name in alone and grids[name].bits <= 4)
    return Lowered(lowered, tuple(integers.values()), narrow, notes)


def _kept_grid(program: Program, name: str, keeps: frozenset[str]) -> Uniform | None:
    """Return the quantizer whose codes can be written: the last form, masks aside, since a zero has a code too."""
    quantizer = quantizer_of(representations(program, name))
    grid = None if quantizer is None else in_whole_numbers(quantizer)
    return grid if isinstance(grid, Uniform) and _is_kept(program, name, grid, keeps) else None


def times_finer(form: Uniform) -> int:
    """Return what signed codes of fewer than 7 bits are multiplied with, up to 7 bits, where integer kernels read them.

    They add biases in units of the scale of the products, which narrow codes alone would make coarse. 7 bits times 8, twice, still fit the
    16 bits that older processors add in.
    """
    return int(2 ** max(0, 7 - form.bits)) if form.signed and not form.zero_point.any() else 1


def _lower_weight(program: Program, name: str, form: Uniform, alone: bool) -> str:
    """Replace reads of a quantized weight by integer codes behind a dequantize operation; returns the codes' name.

    Codes are multiplied as `times_finer` says, and the scale is divided; not so under float activations (`alone`).
    """
    finer = 1 if alone else times_finer(form)
    with torch.no_grad():
        codes = (finer * form.codes(read(program, name))).to(_dtype(form))
    bake(program, name)
    place(program, f"{name}_codes", codes, trainable=False)
    for node in [node for node in program.graph.nodes if node.op == "get_attr" and node.target == name]:
        with program.graph.inserting_before(node):
            scale, zero_point = _place_grid(program, name, form, finer)
            axis = (form.axis or 0) if form.group is None else 1
            arguments = (program.graph.get_attr(f"{name}_codes"), scale, zero_point, axis)
            dense = program.graph.call_function(dequantize, arguments)
        dense.meta = dict(node.meta)
        node.replace_all_uses_with(dense)
    return f"{name}_codes"


def _place_grid(program: Program, name: str, form: Uniform, finer: int = 1) -> tuple[fx.Node, fx.Node]:
    """Store scale, so many times finer, and zero point under names derived from `name` and read them where the graph stands."""
    place(program, f"{name}_scale", form.step / finer, trainable=False)
    place(program, f"{name}_zero_point", form.zero_point.to(_dtype(form)), trainable=False)
    return program.graph.get_attr(f"{name}_scale"), program.graph.get_attr(f"{name}_zero_point")


def _lower_edge(program: Program, edge: fx.Node, form: Uniform, clipped: bool) -> None:
    """Write an edge as integer operations; `clipped`: the values are within the grid's limits already."""
    source, (low, high) = edge.args[0], levels(form.bits, form.signed)
    assert isinstance(source, fx.Node)
    if not clipped:
        source, (low, high) = _without_bounds(source, form)
    name, limits = str(edge.target), torch.iinfo(_dtype(form))
    with program.graph.inserting_before(edge):
        scale, zero_point = _place_grid(program, name, form)
        codes = program.graph.call_function(quantize, (source, scale, zero_point, 0))
        if not clipped and (low, high) != (limits.min, limits.max):
            bounds = {"low": low, "high": high}
            for which, bound in bounds.items():
                place(program, f"{name}_{which}", torch.tensor(bound, dtype=_dtype(form)), trainable=False)
            codes = program.graph.call_function(clip, (codes, *(program.graph.get_attr(f"{name}_{which}") for which in bounds)))
        dense = program.graph.call_function(dequantize, (codes, scale, zero_point, 0))
    dense.meta = dict(edge.meta)
    edge.replace_all_uses_with(dense)
    program.graph.erase_node(edge)


def _without_bounds(source: fx.Node, form: Uniform) -> tuple[fx.Node, tuple[int, int]]:
    """Return what a grid reads, or else the value before its bounds, and the limits of the codes that mean the same."""
    low, high = levels(form.bits, form.signed)
    bounds = bounds_of(source)
    if bounds is None or len(source.users) > 1 or form.scale.numel() > 1:
        return source, (low, high)
    codes = [int(torch.clamp(torch.round(torch.tensor(bound) / form.step) + form.zero_point, low, high)) for bound in bounds]
    return source.all_input_nodes[0], (codes[0], codes[1])


def bounds_of(node: fx.Node) -> tuple[float, float] | None:
    """Return the lowest and highest value that an activation lets through, where it leaves all between as they are; else None."""
    match node.target:
        case aten.relu.default:
            return 0.0, inf
        case aten.relu6.default:
            return 0.0, 6.0
        case aten.hardtanh.default:
            return float(argument(node, "min_val")), float(argument(node, "max_val"))
        case aten.clamp.default:
            low, high = argument(node, "min"), argument(node, "max")
            return (-inf if low is None else float(low)), (inf if high is None else float(high))
    return None


def _dtype(form: Uniform) -> torch.dtype:
    return torch.int8 if form.signed else torch.uint8


def spell_out_attention(program: Program) -> None:
    """Write attention that exporters do not know as matrix products and a softmax, in place.

    They know the fused operation for (batch, heads, positions, channels) only, where windows and regions add dimensions; and what it
    becomes under an additive mask lies in memory in another order than the fused kernel's result, of which the graph has views.
    """
    found = [node for node in program.graph.nodes if node.target is aten.scaled_dot_product_attention.default and _can_be_spelled_out(node)]
    for node in found:
        _spell_out(program.graph, node)
    for node in program.graph.nodes if found else ():
        if node.target is aten.view.default:
            node.target = aten.reshape.default
    tidy(program)


def _can_be_spelled_out(node: fx.Node) -> bool:
    mask, causal = argument(node, "attn_mask"), argument(node, "is_causal")
    additive = isinstance(mask, fx.Node) and mask.meta["val"].is_floating_point()
    return (additive or (mask is None and node.meta["val"].ndim != 4)) and not causal and not argument(node, "enable_gqa")


def _spell_out(graph: fx.Graph, node: fx.Node) -> None:
    query, key, value = node.args[:3]
    assert isinstance(query, fx.Node)
    scale, mask = argument(node, "scale") or query.meta["val"].shape[-1] ** -0.5, argument(node, "attn_mask")
    with graph.inserting_before(node):
        scaled = graph.call_function(aten.mul.Tensor, (query, scale))
        scores = graph.call_function(aten.matmul.default, (scaled, graph.call_function(aten.transpose.int, (key, -2, -1))))
        if mask is not None:
            scores = graph.call_function(aten.add.Tensor, (scores, mask))
        weights = graph.call_function(aten.softmax.int, (scores, -1))
        result = graph.call_function(aten.matmul.default, (weights, value))
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.erase_node(node)
