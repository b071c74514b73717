"""Cut: the only function that removes channels. It slices every tensor a group lives in and recomputes every literal size."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from laconic.errors import LaconicError
from laconic.program.axes import Keep, Product, Sum, Term
from laconic.program.groups import Group, find
from laconic.program.program import Program, holder, tidy
from laconic.program.represent import Representation, edges
from laconic.program.shapes import infer_shapes
from laconic.program.walk import BATCH, Node, Walk

aten = torch.ops.aten


def cut(program: Program, keep: Mapping[str, Sequence[int]]) -> Program:
    """Remove channels, in place.

    Args:
        program: the program; its tensors, representations and literal sizes are cut.
        keep: by a group's name (of `channel_groups` on this program as it is), the channels that stay; at least one of each.

    Returns:
        The program.

    Raises:
        LaconicError: an unknown group, a channel that does not exist, or nothing left of a group. Nothing has been cut then.
    """
    found = find(program)
    chosen = _checked(found.groups, keep)
    state, wanted = found.walk, {group.symbol: sorted(set(channels)) for group, channels in chosen}
    updates = [
        (node, update(node, _Sizes(state, wanted))) for node in program.graph.nodes if (update := _LITERALS.get(node.target)) is not None
    ]
    for name, axes in state.tensors.items():
        _cut_tensor(program, name, state, axes, wanted)
    for node, form in edges(program).items():
        _cut_edge(program, node, form, state, wanted)
    for node, arguments in updates:
        if arguments is not None:
            node.args, node.kwargs = arguments
    tidy(program)
    return infer_shapes(program)


def _checked(groups: Sequence[Group], keep: Mapping[str, Sequence[int]]) -> list[tuple[Group, Sequence[int]]]:
    by_name = {group.name: group for group in groups}
    for name, channels in keep.items():
        if name not in by_name:
            raise LaconicError(f"there is no group {name!r}; groups are found anew after every cut: {', '.join(by_name)}")
        bad = [channel for channel in channels if not 0 <= channel < by_name[name].channels]
        if bad or not len(channels):
            what = f"channel {bad[0]} does not exist" if bad else "nothing would be left"
            raise LaconicError(f"group {name!r} has {by_name[name].channels} channels: {what}")
    return [(by_name[name], channels) for name, channels in keep.items()]


def _cut_tensor(program: Program, name: str, state: Walk, axes: list[Term], keep: Keep) -> None:
    changed = [(axis, torch.from_numpy(state.algebra.kept(term, keep))) for axis, term in enumerate(axes) if _touched(state, term, keep)]
    module, attribute = holder(program, name)
    for axis, index in changed:
        if parametrize.is_parametrized(module, attribute):
            _cut_parametrized(module, attribute, axis, index)
        else:
            value = getattr(module, attribute)
            _put(module, attribute, value.detach().index_select(axis, index.to(value.device)), value)
    for alias, target in program.aliases.items():
        if target == name and changed:
            owner, other = holder(program, alias)
            source: Any = getattr(module, "parametrizations", {})
            owner._parameters[other] = source[attribute].original if attribute in source else module._parameters[attribute]


def _touched(state: Walk, term: Term, keep: Keep) -> bool:
    return any(leaf in keep for leaf in state.algebra.leaves(term))


def _put(module: nn.Module, attribute: str, value: Tensor, before: Tensor) -> None:
    if isinstance(before, nn.Parameter):
        module._parameters[attribute] = nn.Parameter(value, requires_grad=before.requires_grad)
    else:
        module._buffers[attribute] = value


def _cut_parametrized(module: nn.Module, attribute: str, axis: int, index: Tensor) -> None:
    """Cut what is stored and every representation on it, and register them again."""
    lists: Any = module.parametrizations
    chain = lists[attribute]
    forms, original = list(chain), chain.original
    value = original.detach().index_select(axis, index.to(original.device))
    chain.original = nn.Parameter(value, requires_grad=original.requires_grad)
    for position, form in enumerate(forms):
        assert isinstance(form, Representation)
        chain[position] = form.select(axis, index.to(original.device))


def _cut_edge(program: Program, node: Node, form: Representation, state: Walk, keep: Keep) -> None:
    axis = getattr(form, "axis", None)
    if axis is None or not _touched(state, state.of(node)[axis], keep):
        return
    path, _, attribute = str(node.target).rpartition(".")
    index = torch.from_numpy(state.algebra.kept(state.of(node)[axis], keep))
    program.get_submodule(path).add_module(attribute, form.select(axis, index))


# --- literal sizes --------------------------------------------------------------------------------------------------------------------


class _Sizes:
    """Sizes of terms and shapes after the cut."""

    def __init__(self, state: Walk, keep: Keep) -> None:
        self.state, self.keep = state, keep

    def of(self, term: Term) -> int:
        match self.state.algebra.normal(term):
            case Product(factors):
                size = 1
                for factor in factors:
                    size *= self.of(factor)
                return size
            case Sum(parts):
                return sum(map(self.of, parts))
            case symbol:
                return len(self.keep.get(symbol.number, range(self.state.algebra.sizes[symbol.number])))

    def shape(self, node: Any) -> list[int]:
        return [self.of(term) for term in self.state.of(node)]

    def literal(self, before: Any, size: int) -> Any:
        """Return the size to write where `before` was written; what follows from the batch keeps doing so."""
        if isinstance(before, fx.Node):
            value = self.state.values[before]
            return before if int(value) == size else _of_batch(before, size)
        return before if before == -1 else size


def _of_batch(before: fx.Node, size: int) -> fx.Node:
    """Write `batch * k` for a size that follows from the batch with another factor than before."""
    if size % BATCH:
        raise LaconicError(
            f"the size {before.name} at {before.meta.get('source', before.name)} mixes the batch with channels in an unknown way"
        )
    graph = before.graph
    source = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(before):
        batch = graph.call_function(aten.sym_size.int, (source, 0))
    with graph.inserting_after(batch):
        return graph.call_function(operator.mul, (batch, size // BATCH))


_Update = Callable[[fx.Node, _Sizes], tuple[tuple[Any, ...], dict[str, Any]] | None]
_LITERALS: dict[Any, _Update] = {}


def _literal(*targets: Any) -> Callable[[_Update], _Update]:
    def register(update: _Update) -> _Update:
        for target in targets:
            overloads = [getattr(target, name) for name in target.overloads()] if hasattr(target, "overloads") else [target]
            _LITERALS.update(dict.fromkeys(overloads, update))
        return update

    return register


def _with(node: Node, position: int, value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (*node.args[:position], value, *node.args[position + 1 :]), dict(node.kwargs)


@_literal(aten.view, aten.reshape, aten._unsafe_view, aten.expand)
def _shape(node: Node, sizes: _Sizes) -> Any:
    written: Any = node.args[1]
    after = sizes.shape(node)
    return _with(node, 1, [sizes.literal(before, size) for before, size in zip(written, after, strict=True)])


@_literal(aten.zeros, aten.ones, aten.full, aten.empty)
def _created(node: Node, sizes: _Sizes) -> Any:
    return _with(node, 0, [sizes.literal(before, size) for before, size in zip(node.args[0], sizes.shape(node), strict=True)])


@_literal(aten.new_zeros, aten.new_ones, aten.new_full)
def _created_like(node: Node, sizes: _Sizes) -> Any:
    return _with(node, 1, [sizes.literal(before, size) for before, size in zip(node.args[1], sizes.shape(node), strict=True)])


@_literal(aten.unflatten)
def _unflattened(node: Node, sizes: _Sizes) -> Any:
    written: Any = node.args[2]
    at = int(node.args[1]) % len(sizes.state.of(node.args[0]))
    after = sizes.shape(node)[at : at + len(written)]
    return _with(node, 2, [sizes.literal(before, size) for before, size in zip(written, after, strict=True)])


@_literal(aten.conv1d, aten.conv2d, aten.conv3d, aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
def _groups(node: Node, sizes: _Sizes) -> Any:
    if len(node.args) <= 6 or node.args[6] == 1:
        return None
    channels = sizes.shape(node.args[0])[1]
    weight = sizes.state.of(node.args[1])
    transposed = "transpose" in str(node.target)
    if transposed:
        out = sizes.shape(node)[1]
        return _with(node, 6, out // sizes.of(weight[1]))
    return _with(node, 6, channels // sizes.of(weight[1]))


@_literal(aten.layer_norm, aten.rms_norm)
def _normalized(node: Node, sizes: _Sizes) -> Any:
    return _with(node, 1, sizes.shape(node)[-len(node.args[1]) :])


@_literal(aten.group_norm)
def _norm_groups(node: Node, sizes: _Sizes) -> Any:
    groups = int(node.args[1])
    term = sizes.state.of(node.args[0])[1]
    outer, _ = sizes.state.algebra.split_product(term, groups, sizes.state.algebra.size(term) // groups)
    return _with(node, 1, sizes.of(outer))


@_literal(aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split)
def _split(node: Node, sizes: _Sizes) -> Any:
    """Equal parts may come out unequal: written as sizes from then on."""
    at = _dim(node, 2, 0) % len(sizes.state.of(node.args[0]))
    parts = [sizes.of(axes[at]) for axes in sizes.state.axes[node]]
    before = [sizes.state.algebra.size(axes[at]) for axes in sizes.state.axes[node]]
    if parts == before:
        return None
    node.target = aten.split_with_sizes.default
    return (node.args[0], parts, at), {}


def _dim(node: Node, position: int, default: int) -> int:
    value: Any = node.args[position] if len(node.args) > position else node.kwargs.get("dim", default)
    return int(value)


@_literal(aten.slice.Tensor)
def _slice(node: Node, sizes: _Sizes) -> Any:
    algebra, source = sizes.state.algebra, sizes.state.of(node.args[0])
    at = _dim(node, 1, 0) % len(source)
    before, after = algebra.size(source[at]), sizes.of(source[at])
    taken = sizes.shape(node)[at]
    if before == after:
        return None
    start = int(node.args[2] or 0) if len(node.args) > 2 else 0
    start = start + before if start < 0 else start
    if algebra.size(sizes.state.of(node)[at]) == before:
        return (node.args[0], at, 0, after), {}
    first = sizes.of(algebra.split_sum(source[at], start)[0]) if start else 0
    return (node.args[0], at, first, first + taken), {}


@_literal(aten.scaled_dot_product_attention)
def _attention_scale(node: Node, sizes: _Sizes) -> Any:
    """The default scale is that of the head's size; cutting it must not change the scores of what stays."""
    query = sizes.state.of(node.args[0])
    before = sizes.state.algebra.size(query[-1])
    if node.kwargs.get("scale") is not None or before == sizes.of(query[-1]):
        return None
    return tuple(node.args), {**node.kwargs, "scale": before**-0.5}
