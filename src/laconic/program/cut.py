"""Cut: the only function that removes channels. It slices every tensor a group lives in and recomputes every literal size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from laconic.errors import LaconicError
from laconic.program.axes import Keep
from laconic.program.forms import Representation
from laconic.program.groups import Found, Group, find
from laconic.program.literals import LITERALS
from laconic.program.program import Program, holder, tidy
from laconic.program.represent import edges
from laconic.program.shapes import infer_shapes
from laconic.program.sizes import Sizes
from laconic.program.walk import Node, Walk

KeptChannels: TypeAlias = Mapping[str, Sequence[int]]
"""By a group's name (of `channel_groups` on the program as it is), the channels that stay."""


@dataclass(frozen=True)
class Slice:
    """Positions of one axis of a tensor that stay."""

    axis: int
    index: Tensor  # int64, ascending

    def of(self, tensor: Tensor) -> Tensor:
        """Return what stays of a tensor."""
        return tensor.index_select(self.axis, self.index.to(tensor.device))


def cut(program: Program, keep: KeptChannels, found: Found | None = None) -> Program:
    """Remove channels, in place; parameters stay the same objects, so that an optimizer that holds them goes on holding them.

    Args:
        program: the program; its tensors, representations and literal sizes are cut.
        keep: by a group's name, the channels that stay; at least one of each.
        found: what `find` returned for this program as it is, to save finding it again.

    Returns:
        The program.

    Raises:
        LaconicError: an unknown group, a channel that does not exist, or nothing left of a group. Nothing has been cut then.
    """
    found = found or find(program)
    state, wanted = found.walk, symbols(found, keep)
    sizes = Sizes(state, wanted)
    updates = [(node, update(node, sizes)) for node in program.graph.nodes if (update := LITERALS.get(node.target)) is not None]
    for name, kept in _slices(state, wanted).items():
        _cut_tensor(program, name, kept)
    for node, form in edges(program).items():
        _cut_edge(program, node, form, state, wanted)
    for node, call in updates:
        if call is not None:
            node.target, node.args, node.kwargs = call
    tidy(program)
    return infer_shapes(program)


def slices(program: Program, keep: KeptChannels) -> dict[str, tuple[Slice, ...]]:
    """Return what `cut` would slice, by the name of the stored parameter or buffer (as in `named_parameters`)."""
    found = find(program)
    kept = _slices(found.walk, symbols(found, keep))
    return {_stored(program, name): each for name, each in kept.items()}


def shortened(tensor: Tensor, kept: Sequence[Slice]) -> Tensor:
    """Return what stays of a tensor when it is sliced along several axes."""
    for each in kept:
        tensor = each.of(tensor)
    return tensor


def symbols(found: Found, keep: KeptChannels) -> dict[int, list[int]]:
    """Return the channels that stay by the symbol of their group.

    Raises:
        LaconicError: an unknown group, a channel that does not exist, or nothing left of a group.
    """
    by_name = {group.name: group for group in found.groups}
    for name, channels in keep.items():
        if name not in by_name:
            raise LaconicError(f"there is no group {name!r}; groups are found anew after every cut: {', '.join(by_name)}")
        _check(by_name[name], channels)
    return {by_name[name].symbol: sorted(set(channels)) for name, channels in keep.items()}


def _check(group: Group, channels: Sequence[int]) -> None:
    bad = [channel for channel in channels if not 0 <= channel < group.channels]
    if bad or not len(channels):
        what = f"channel {bad[0]} does not exist" if bad else "nothing would be left"
        raise LaconicError(f"group {group.name!r} has {group.channels} channels: {what}")


def _slices(state: Walk, keep: Keep) -> dict[str, tuple[Slice, ...]]:
    found = {}
    for name, axes in state.tensors.items():
        touched = [(axis, term) for axis, term in enumerate(axes) if any(leaf in keep for leaf in state.algebra.leaves(term))]
        if touched:
            found[name] = tuple(Slice(axis, torch.from_numpy(state.algebra.kept(term, keep))) for axis, term in touched)
    return found


def _stored(program: Program, name: str) -> str:
    module, attribute = holder(program, name)
    if not parametrize.is_parametrized(module, attribute):
        return name
    path = name.removesuffix(attribute)
    return f"{path}parametrizations.{attribute}.original"


def _cut_tensor(program: Program, name: str, kept: tuple[Slice, ...]) -> None:
    """Cut what is stored and every representation on it."""
    module, attribute = holder(program, name)
    if not parametrize.is_parametrized(module, attribute):
        _shorten(getattr(module, attribute), kept)
        return
    lists: Any = module.parametrizations
    chain = lists[attribute]
    _shorten(chain.original, kept)
    for position, form in enumerate(chain):
        for each in kept:
            assert isinstance(form, Representation)
            form = form.select(each.axis, each.index.to(chain.original.device))
        chain[position] = form


def _shorten(tensor: Tensor, kept: tuple[Slice, ...]) -> None:
    value = shortened(tensor.detach(), kept)
    tensor.grad = None
    if tensor.requires_grad:  # a change of type on the way makes autograd forget the old shape, which it keeps while an older graph lives
        tensor.data = torch.empty(0, dtype=torch.float64 if value.dtype != torch.float64 else torch.float32)
    tensor.data = value


def _cut_edge(program: Program, node: Node, form: Representation, state: Walk, keep: Keep) -> None:
    axis = getattr(form, "axis", None)
    if axis is None or not any(leaf in keep for leaf in state.algebra.leaves(state.of(node)[axis])):
        return
    path, _, attribute = str(node.target).rpartition(".")
    index = torch.from_numpy(state.algebra.kept(state.of(node)[axis], keep))
    program.get_submodule(path).add_module(attribute, form.select(axis, index))
