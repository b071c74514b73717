"""One small rule per operation: how the axes of its result follow from those of its operands.

To add a rule, write a function of the walk and the node that returns the result's axes, and name it in the table:

    @rule(aten.my_operation.default)
    def _my_operation(walk: Walk, node: Node) -> Axes:
        return walk.of(node.args[0])          # channels in, the same channels out

`walk.unify` equates two dimensions (a contraction, a residual sum), `walk.algebra.blur` marks one whose reduction changes when it is cut,
and `walk.freeze` keeps one whole. An operation without a rule freezes everything it touches: nothing is cut wrongly for want of a rule.
"""

import operator
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from laconic.program.axes import UNIT, MisfitError, Term, concatenation, product
from laconic.program.walk import Axes, Node, Rule, Walk, is_pointwise, where

aten = torch.ops.aten

_RULES: dict[Any, Rule] = {}


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Name the operations that a rule describes: overloads, or packets for all their overloads."""

    def register(function: Rule) -> Rule:
        for target in targets:
            overloads = [getattr(target, name) for name in target.overloads()] if hasattr(target, "overloads") else [target]
            _RULES.update(dict.fromkeys(overloads, function))
        return function

    return register


def rule_for(node: Node) -> Rule | None:
    """Return the rule of an operation; entry-by-entry operations share one."""
    if node.target in _RULES:
        return _RULES[node.target]
    return _pointwise if is_pointwise(node.target) else None


def _argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def _axis(walk: Walk, node: Any, axis: int) -> int:
    return axis % len(walk.of(node))


def _operands(walk: Walk, node: Node) -> list[fx.Node]:
    return [argument for argument in node.all_input_nodes if isinstance(walk.values.get(argument), Tensor)]


def _pointwise(walk: Walk, node: Node) -> Axes:
    return walk.pointwise(node, _operands(walk, node))


@rule(
    *(
        aten.dropout,
        aten.feature_dropout,
        aten.alpha_dropout,
        aten.feature_alpha_dropout,
        aten.contiguous,
        aten.clone,
        aten.detach,
        aten.alias,
    ),
    *(
        aten.to,
        aten._to_copy,
        aten.type_as,
        aten.lift_fresh_copy,
        aten.hardswish,
        aten.hardsigmoid,
        aten.hardtanh,
        aten.relu6,
        aten.selu,
        aten.celu,
    ),
    *(aten.where.self, aten.masked_fill, aten.float_power, aten.rrelu, aten.log_sigmoid, aten.softshrink, aten.hardshrink, aten.threshold),
    *(aten.zeros_like, aten.ones_like, aten.full_like, aten.lerp, aten.addcmul, aten.softplus, aten.gelu, aten.silu, aten.mish),
)
def _same(walk: Walk, node: Node) -> Axes:
    operands = [o for o in _operands(walk, node) if walk.shape(o) or len(_operands(walk, node)) == 1]
    return walk.pointwise(node, operands)


@rule(aten.prelu)
def _prelu(walk: Walk, node: Node) -> Axes:
    axes, slope = walk.of(node.args[0]), walk.of(node.args[1])
    walk.unify(axes[1], slope[0], node) if slope and slope[0] != UNIT else None
    return axes


@rule(aten.softmax.int, aten.log_softmax.int, aten._softmax, aten.cumsum, aten.glu_backward)
def _along_axis(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    walk.algebra.blur(axes[_axis(walk, node.args[0], int(node.args[1]))], f"{where(node)}: normalizes over these channels")
    return axes


@rule(aten.glu)
def _glu(walk: Walk, node: Node) -> Axes:
    axes = list(walk.of(node.args[0]))
    at = _axis(walk, node.args[0], _argument(node, 1, "dim", -1))
    first, second = walk.algebra.split_sum(axes[at], walk.algebra.size(axes[at]) // 2)
    axes[at] = walk.unify(first, second, node)
    return axes


# --- layers ---------------------------------------------------------------------------------------------------------------------------


@rule(aten.linear)
def _linear(walk: Walk, node: Node) -> Axes:
    inputs, (out, into) = walk.of(node.args[0]), walk.of(node.args[1])
    walk.unify(inputs[-1], into, node)
    _unify_bias(walk, node, 2, out)
    return [*inputs[:-1], out]


def _unify_bias(walk: Walk, node: Node, position: int, channels: Term) -> None:
    bias = _argument(node, position, "bias")
    if bias is not None:
        walk.unify(channels, walk.of(bias)[0], node)


_STRIDED = {aten.conv1d: 1, aten.conv2d: 2, aten.conv3d: 3}


@rule(*_STRIDED)
def _convolution(walk: Walk, node: Node) -> Axes:
    return _grouped_convolution(walk, node, groups=int(_argument(node, 6, "groups", 1)), transposed=False)


@rule(aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
def _transposed_convolution(walk: Walk, node: Node) -> Axes:
    return _grouped_convolution(walk, node, groups=int(_argument(node, 6, "groups", 1)), transposed=True)


def _grouped_convolution(walk: Walk, node: Node, groups: int, transposed: bool) -> Axes:
    """The input channels are groups x inner, the output channels groups x outer; each group has its own kernels."""
    inputs, weight = walk.of(node.args[0]), walk.of(node.args[1])
    walk.freeze(weight[2:], f"{where(node)}: kernel positions")
    group, inner = walk.algebra.split_product(inputs[1], groups, walk.algebra.size(inputs[1]) // groups)
    grouped, own = (0, 1)
    outside = walk.algebra.size(weight[grouped]) // groups if not transposed else walk.algebra.size(weight[own])
    if transposed:
        walk.unify(weight[grouped], inputs[1], node)
        outer = weight[own]
    else:
        walk.unify(weight[own], inner, node)
        of_group, outer = walk.algebra.split_product(weight[grouped], groups, outside)
        walk.unify(of_group, group, node)
    out = product([group, outer])
    _unify_bias(walk, node, 2, out)
    return [inputs[0], out, *_positions(walk, node)]


def _positions(walk: Walk, node: Node, start: int = 2) -> Axes:
    return [walk.dimension(size, f"{where(node)}: positions") for size in walk.shape(node)[start:]]


@rule(aten.embedding)
def _embedding(walk: Walk, node: Node) -> Axes:
    rows, columns = walk.of(node.args[0])
    walk.algebra.freeze(rows, f"{where(node)}: the vocabulary")
    return [*walk.of(node.args[1]), columns]


@rule(aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
def _recurrent(walk: Walk, node: Node) -> list[Axes]:
    """Gates are the outer factor of every weight's rows; directions are parts of the output."""
    inputs, state, parameters, has_biases, layers, _, _, bidirectional, _ = node.args
    gates = {"lstm": 4, "gru": 3}.get(str(node.target).split(".")[1], 1)
    states = list(state) if isinstance(state, (list, tuple)) else [state]
    per_cell, directions = (4 if has_biases else 2), (2 if bidirectional else 1)
    remaining, current = list(parameters), walk.of(inputs)[-1]
    hidden_terms: Axes = []
    for _ in range(int(layers)):
        outputs = []
        for _ in range(directions):
            cell, remaining = remaining[:per_cell], remaining[per_cell:]
            outputs.append(_cell(walk, node, cell, current, gates))
        hidden_terms += outputs
        current = concatenation(outputs)
    for other in hidden_terms[1:]:  # one state tensor holds all layers and directions
        walk.unify(hidden_terms[0], other, node)
    for each in states:
        walk.unify(walk.of(each)[-1], hidden_terms[0], node)
        walk.freeze(walk.of(each)[:1], f"{where(node)}: layers and directions")
    first = [*walk.of(inputs)[:-1], current]
    return [first, *(walk.of(each) for each in states)]


def _cell(walk: Walk, node: Node, cell: list[Any], inputs: Term, gates: int) -> Term:
    from_input, from_hidden = walk.of(cell[0]), walk.of(cell[1])
    walk.unify(from_input[1], inputs, node)
    gate, hidden = walk.algebra.split_product(from_input[0], gates, walk.algebra.size(from_input[0]) // gates)
    walk.algebra.freeze(gate, f"{where(node)}: gates")
    walk.unify(from_hidden[0], product([gate, hidden]), node)
    walk.unify(from_hidden[1], hidden, node)
    for bias in cell[2:]:
        walk.unify(walk.of(bias)[0], product([gate, hidden]), node)
    return hidden


# --- normalization --------------------------------------------------------------------------------------------------------------------


@rule(aten.batch_norm)
def _batch_norm(walk: Walk, node: Node) -> Axes:
    return _per_channel(walk, node, node.args[1:5])


@rule(aten.instance_norm)
def _instance_norm(walk: Walk, node: Node) -> Axes:
    return _per_channel(walk, node, node.args[1:5])


def _per_channel(walk: Walk, node: Node, tensors: Any) -> Axes:
    axes = walk.of(node.args[0])
    for tensor in tensors:
        if tensor is not None:
            walk.unify(axes[1], walk.of(tensor)[0], node)
    return axes


@rule(aten.group_norm)
def _group_norm(walk: Walk, node: Node) -> Axes:
    axes, groups = walk.of(node.args[0]), int(node.args[1])
    _, inner = walk.algebra.split_product(axes[1], groups, walk.algebra.size(axes[1]) // groups)
    walk.algebra.blur(inner, f"{where(node)}: normalizes over these channels")
    return _per_channel(walk, node, [_argument(node, 2, "weight"), _argument(node, 3, "bias")])


@rule(aten.layer_norm, aten.rms_norm)
def _layer_norm(walk: Walk, node: Node) -> Axes:
    axes, count = walk.of(node.args[0]), len(node.args[1])
    for tensor in (_argument(node, 2, "weight"), _argument(node, 3, "bias")):
        if isinstance(tensor, fx.Node):
            for ours, theirs in zip(axes[-count:], walk.of(tensor), strict=True):
                walk.unify(ours, theirs, node)
    for term in axes[-count:]:
        walk.algebra.blur(term, f"{where(node)}: normalizes over these channels")
    return axes


@rule(aten.linalg_vector_norm, aten.norm.ScalarOpt_dim)
def _norm(walk: Walk, node: Node) -> Axes:
    return _reduced(walk, node, _argument(node, 2, "dim"), bool(_argument(node, 3, "keepdim", False)), exact=True)


# --- reductions -----------------------------------------------------------------------------------------------------------------------


@rule(aten.mean.dim, aten.var, aten.std, aten.amax, aten.amin, aten.logsumexp, aten.prod.dim_int, aten.any.dim, aten.all.dim)
def _mean(walk: Walk, node: Node) -> Axes:
    return _reduced(walk, node, _argument(node, 1, "dim"), bool(_argument(node, _keepdim_position(node), "keepdim", False)), exact=False)


def _keepdim_position(node: Node) -> int:
    names = [argument.name for argument in node.target._schema.arguments]
    return names.index("keepdim") if "keepdim" in names else len(names)


@rule(aten.sum.dim_IntList)
def _sum(walk: Walk, node: Node) -> Axes:
    return _reduced(walk, node, _argument(node, 1, "dim"), bool(_argument(node, 2, "keepdim", False)), exact=True)


@rule(aten.max.dim, aten.min.dim)
def _max(walk: Walk, node: Node) -> list[Axes]:
    axes = _reduced(walk, node.args[0], node.args[1], bool(_argument(node, 2, "keepdim", False)), exact=False, reason=where(node))
    return [axes, axes]


@rule(aten.argmax, aten.argmin)
def _argmax(walk: Walk, node: Node) -> Axes:
    dim = _argument(node, 1, "dim")
    if dim is None:
        raise MisfitError("an index over everything")
    walk.algebra.freeze(walk.of(node.args[0])[_axis(walk, node.args[0], dim)], f"{where(node)}: positions are counted")
    return _reduced(walk, node, dim, bool(_argument(node, 2, "keepdim", False)), exact=False)


def _reduced(walk: Walk, node: Any, dims: Any, keepdim: bool, exact: bool, reason: str | None = None) -> Axes:
    source = node.args[0] if reason is None else node
    axes = walk.of(source)
    if dims is None or dims == []:
        dims = list(range(len(axes)))
    chosen = {_axis(walk, source, dim) for dim in ([dims] if isinstance(dims, int) else dims)}
    if not exact:
        for dim in chosen:
            walk.algebra.blur(axes[dim], f"{reason or where(node)}: averages over these channels")
    return [UNIT if i in chosen else term for i, term in enumerate(axes) if keepdim or i not in chosen]


# --- pictures -------------------------------------------------------------------------------------------------------------------------


@rule(
    *(aten.max_pool1d, aten.max_pool2d, aten.max_pool3d, aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten.adaptive_avg_pool1d),
    *(aten.adaptive_avg_pool2d, aten.adaptive_avg_pool3d, aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d),
    *(aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten.upsample_linear1d, aten.upsample_trilinear3d, aten.grid_sampler),
    *(aten._upsample_nearest_exact2d, aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa, aten._adaptive_avg_pool2d),
)
def _pooling(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    packet: Any = node.target.overloadpacket
    spatial = 1 if packet in (aten.max_pool1d, aten.avg_pool1d, aten.adaptive_avg_pool1d) else None
    kept = len(axes) - spatial if spatial else 2
    return [*axes[:kept], *_positions(walk, node, kept)]


@rule(aten.adaptive_max_pool1d, aten.adaptive_max_pool2d, aten.max_pool2d_with_indices)
def _pooling_with_indices(walk: Walk, node: Node) -> list[Axes]:
    axes = walk.of(node.args[0])
    sizes = walk.values[node][0].shape
    result = [*axes[:2], *(walk.dimension(int(size), f"{where(node)}: positions") for size in sizes[2:])]
    return [result, result]


@rule(aten.pixel_shuffle)
def _pixel_shuffle(walk: Walk, node: Node) -> Axes:
    axes, factor = walk.of(node.args[0]), int(node.args[1])
    channels, block = walk.algebra.split_product(axes[-3], walk.algebra.size(axes[-3]) // factor**2, factor**2)
    walk.algebra.freeze(block, f"{where(node)}: pixels of a block")
    return [*axes[:-3], channels, *_positions(walk, node, len(axes) - 2)]


@rule(aten.pixel_unshuffle)
def _pixel_unshuffle(walk: Walk, node: Node) -> Axes:
    axes, factor = walk.of(node.args[0]), int(node.args[1])
    block = walk.algebra.new(factor**2, f"{where(node)}: pixels of a block")
    return [*axes[:-3], product([axes[-3], block]), *_positions(walk, node, len(axes) - 2)]


@rule(aten.channel_shuffle)
def _channel_shuffle(walk: Walk, node: Node) -> Axes:
    axes, groups = list(walk.of(node.args[0])), int(node.args[1])
    group, inner = walk.algebra.split_product(axes[1], groups, walk.algebra.size(axes[1]) // groups)
    axes[1] = product([inner, group])
    walk.algebra.freeze(group, f"{where(node)}: the groups that are shuffled")
    return axes


@rule(aten.pad, aten.constant_pad_nd, aten.reflection_pad2d, aten.replication_pad2d)
def _pad(walk: Walk, node: Node) -> Axes:
    """Zeros before and after are parts of their own, so that channels may be padded (identity shortcuts)."""
    axes, amounts = list(walk.of(node.args[0])), list(node.args[1])
    for i in range(len(amounts) // 2):
        before, after = amounts[2 * i : 2 * i + 2]
        at = len(axes) - 1 - i
        if before or after:
            if before < 0 or after < 0 or not all(isinstance(amount, int) for amount in (before, after)):
                walk.algebra.freeze(axes[at], f"{where(node)}: cropped")
                axes[at] = walk.dimension(walk.shape(node)[at], f"{where(node)}: cropped")
                continue
            edges = [walk.algebra.new(amount, f"{where(node)}: padding") if amount > 1 else UNIT for amount in (before, after)]
            parts = [edges[0]] * bool(before) + [axes[at]] + [edges[1]] * bool(after)
            axes[at] = concatenation(parts)
    return axes


@rule(aten.roll)
def _roll(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    for dim in _argument(node, 2, "dims", []) or range(len(axes)):
        walk.algebra.freeze(axes[dim], f"{where(node)}: positions are moved")
    return axes


@rule(aten.unfold)
def _unfold(walk: Walk, node: Node) -> Axes:
    axes = list(walk.of(node.args[0]))
    at = _axis(walk, node.args[0], int(node.args[1]))
    walk.algebra.freeze(axes[at], f"{where(node)}: sliding windows")
    axes[at] = walk.dimension(walk.shape(node)[at], f"{where(node)}: sliding windows")
    return [*axes, walk.dimension(walk.shape(node)[-1], f"{where(node)}: sliding windows")]


@rule(aten.im2col)
def _im2col(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    window = walk.algebra.new(prod(node.args[1]), f"{where(node)}: window positions")
    return [axes[0], product([axes[1], window]), *_positions(walk, node)]


# --- shape ----------------------------------------------------------------------------------------------------------------------------


@rule(aten.view, aten.reshape, aten._unsafe_view, aten.flatten, aten.unflatten, aten.squeeze, aten.unsqueeze, aten.view_as)
def _reshape(walk: Walk, node: Node) -> Axes:
    """All dimensions in a row, split again where the result's sizes say."""
    rest, result = product(walk.of(node.args[0])), list[Term]()
    sizes = walk.shape(node)
    for position, size in enumerate(sizes):
        remaining = prod(sizes[position + 1 :])
        first, rest = walk.algebra.split_product(rest, size, remaining)
        result.append(first)
    return result


@rule(aten.permute)
def _permute(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    return [axes[dim] for dim in node.args[1]]


@rule(aten.transpose, aten.swapaxes)
def _transpose(walk: Walk, node: Node) -> Axes:
    axes = list(walk.of(node.args[0]))
    a, b = (_axis(walk, node.args[0], int(dim)) for dim in node.args[1:3])
    axes[a], axes[b] = axes[b], axes[a]
    return axes


@rule(aten.t, aten.numpy_T)
def _t(walk: Walk, node: Node) -> Axes:
    return walk.of(node.args[0])[::-1]


@rule(aten.movedim)
def _movedim(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    moved: list[Any] = [[dims] if isinstance(dims, int) else list(dims) for dims in node.args[1:3]]
    source, target = ([dim % len(axes) for dim in dims] for dims in moved)
    order = [dim for dim in range(len(axes)) if dim not in source]
    for place, dim in sorted(zip(target, source, strict=True)):
        order.insert(place, dim)
    return [axes[dim] for dim in order]


@rule(aten.flip)
def _flip(walk: Walk, node: Node) -> Axes:
    axes = walk.of(node.args[0])
    walk.freeze([axes[dim] for dim in node.args[1]], f"{where(node)}: order is reversed")
    return axes


@rule(aten.expand, aten.expand_as, aten.broadcast_to)
def _expand(walk: Walk, node: Node) -> Axes:
    axes, sizes = walk.of(node.args[0]), walk.shape(node)
    own = [None] * (len(sizes) - len(axes)) + list(axes)
    return [walk.dimension(size) if term is None or (term == UNIT and size != 1) else term for term, size in zip(own, sizes, strict=True)]


@rule(aten.repeat, aten.tile)
def _repeat(walk: Walk, node: Node) -> Axes:
    axes, sizes = walk.of(node.args[0]), walk.shape(node)
    own = [UNIT] * (len(sizes) - len(axes)) + list(axes)
    return [
        product([walk.dimension(size // walk.algebra.size(term), f"{where(node)}: copies"), term])
        for term, size in zip(own, sizes, strict=True)
    ]


@rule(aten.repeat_interleave.self_int)
def _repeat_interleave(walk: Walk, node: Node) -> Axes:
    axes, dim = list(walk.of(node.args[0])), _argument(node, 2, "dim")
    if dim is None:
        raise MisfitError("everything is repeated")
    at = _axis(walk, node.args[0], dim)
    axes[at] = product([axes[at], walk.algebra.new(int(node.args[1]), f"{where(node)}: copies")])
    return axes


# --- joining and taking apart ---------------------------------------------------------------------------------------------------------


@rule(aten.cat, aten.concat)
def _cat(walk: Walk, node: Node) -> Axes:
    tensors: Any = node.args[0]
    at = _axis(walk, tensors[0], _argument(node, 1, "dim", 0))
    axes = [_all_equal(walk, node, [walk.of(tensor)[i] for tensor in tensors]) for i in range(len(walk.of(tensors[0]))) if i != at]
    axes.insert(at, concatenation([walk.of(tensor)[at] for tensor in tensors]))
    return axes


def _all_equal(walk: Walk, node: Node, terms: Axes) -> Term:
    for term in terms[1:]:
        walk.unify(terms[0], term, node)
    return terms[0]


@rule(aten.stack)
def _stack(walk: Walk, node: Node) -> Axes:
    tensors: Any = node.args[0]
    axes = [_all_equal(walk, node, list(terms)) for terms in zip(*(walk.of(tensor) for tensor in tensors), strict=True)]
    at = _argument(node, 1, "dim", 0) % (len(axes) + 1)
    axes.insert(at, walk.dimension(len(tensors), f"{where(node)}: what is stacked"))
    return axes


@rule(aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split)
def _split(walk: Walk, node: Node) -> list[Axes]:
    axes = walk.of(node.args[0])
    at = _axis(walk, node.args[0], _argument(node, 2, "dim", 0))
    rest, parts = axes[at], list[Axes]()
    sizes = [int(part.shape[at]) for part in walk.values[node]]
    for size in sizes[:-1]:
        first, rest = walk.algebra.split_sum(rest, size)
        parts.append([*axes[:at], first, *axes[at + 1 :]])
    return [*parts, [*axes[:at], rest, *axes[at + 1 :]]]


@rule(aten.slice.Tensor)
def _slice(walk: Walk, node: Node) -> Axes:
    axes = list(walk.of(node.args[0]))
    at = _axis(walk, node.args[0], _argument(node, 1, "dim", 0))
    size, taken = walk.algebra.size(axes[at]), walk.shape(node)[at]
    if taken == size:
        return axes
    start = _argument(node, 2, "start", 0) or 0
    if _argument(node, 4, "step", 1) != 1 or not isinstance(start, int):
        walk.algebra.freeze(axes[at], f"{where(node)}: every so many are taken")
        axes[at] = walk.dimension(taken, f"{where(node)}: every so many are taken")
        return axes
    start = start + size if start < 0 else start
    term = axes[at]
    if start:
        _, term = walk.algebra.split_sum(term, start)
    if start + taken < size:
        term, _ = walk.algebra.split_sum(term, taken)
    axes[at] = term
    return axes


@rule(aten.select.int)
def _select(walk: Walk, node: Node) -> Axes:
    axes = list(walk.of(node.args[0]))
    at = _axis(walk, node.args[0], int(node.args[1]))
    walk.algebra.freeze(axes[at], f"{where(node)}: one position is taken")
    del axes[at]
    return axes


@rule(aten.unbind)
def _unbind(walk: Walk, node: Node) -> list[Axes]:
    axes = list(walk.of(node.args[0]))
    at = _axis(walk, node.args[0], _argument(node, 1, "dim", 0))
    walk.algebra.freeze(axes[at], f"{where(node)}: taken apart one by one")
    del axes[at]
    return [list(axes) for _ in walk.values[node]]


@rule(aten.index.Tensor, aten.index_select, aten.gather)
def _index(walk: Walk, node: Node) -> Axes:
    """Indexed dimensions are frozen; dimensions that are not indexed and stay in place pass."""
    axes = walk.of(node.args[0])
    indices: Any = node.args[1]
    if node.target is not aten.index.Tensor:
        at = _axis(walk, node.args[0], int(node.args[1]))
        indices = [None] * at + [node.args[2]] if node.target is aten.index_select.default else [node] * len(axes)
    indexed = [i for i, index in enumerate(indices) if index is not None]
    for index in node.all_input_nodes[1:]:
        walk.freeze(walk.of(index), f"{where(node)}: an index")
    walk.freeze([axes[i] for i in indexed], f"{where(node)}: picked by index")
    adjacent = indexed == list(range(indexed[0], indexed[-1] + 1))
    result = [walk.dimension(size, f"{where(node)}: picked by index") for size in walk.shape(node)]
    passed = [(i, term) for i, term in enumerate(axes) if i not in indexed]
    if node.target is aten.gather.default or not adjacent:
        walk.freeze(axes, f"{where(node)}: picked by index")
        return result
    extra = len(result) - len(passed)
    for i, term in passed:
        result[i if i < indexed[0] else i - len(indexed) + extra] = term
    return result


@rule(torch.ops.aten.sym_size.int)
def _nothing(walk: Walk, node: Node) -> None:
    return None


def _getitem(walk: Walk, node: Node) -> Any:
    source, index = node.args[:2]
    value = walk.axes[source]
    return value[index] if isinstance(value, list) and isinstance(index, int) and value and isinstance(value[0], list) else None


_RULES[operator.getitem] = _getitem


@rule(aten.zeros, aten.ones, aten.full, aten.new_zeros, aten.new_ones, aten.new_full, aten.empty)
def _constant(walk: Walk, node: Node) -> Axes:
    """A constant takes the channels of whatever it meets; its literal sizes follow."""
    return walk.fresh(node)


# --- products -------------------------------------------------------------------------------------------------------------------------


@rule(aten.matmul, aten.bmm, aten.mm)
def _matmul(walk: Walk, node: Node) -> Axes:
    a, b = walk.of(node.args[0]), walk.of(node.args[1])
    walk.unify(a[-1], b[-2] if len(b) > 1 else b[0], node)
    left, right = a[:-1], ([*b[:-2], b[-1]] if len(b) > 1 else [])
    outer_a, outer_b = (left[:-1] if len(a) > 1 else []), right[:-1]
    batch = _broadcast(walk, node, outer_a, outer_b)
    _mark_heads(walk, batch)
    return [*batch, *(left[-1:] if len(a) > 1 else []), *right[-1:]]


def _broadcast(walk: Walk, node: Node, first: Axes, second: Axes) -> Axes:
    length = max(len(first), len(second))
    first, second = [UNIT] * (length - len(first)) + first, [UNIT] * (length - len(second)) + second
    sizes = [(walk.algebra.size(a), walk.algebra.size(b)) for a, b in zip(first, second, strict=True)]
    return [walk.unify(a, b, node) if x == y else (a if y == 1 else b) for a, b, (x, y) in zip(first, second, sizes, strict=True)]


def _mark_heads(walk: Walk, batch: Axes) -> None:
    for term in batch:
        walk.algebra.heads.update(walk.algebra.leaves(term))


@rule(aten.addmm, aten.baddbmm)
def _addmm(walk: Walk, node: Node) -> Axes:
    added, a, b = (walk.of(argument) for argument in node.args[:3])
    walk.unify(a[-1], b[-2], node)
    batch = _broadcast(walk, node, a[:-2], b[:-2])
    result = [*batch, a[-2], b[-1]]
    for back in range(1, len(added) + 1):
        if walk.algebra.size(added[-back]) == walk.algebra.size(result[-back]):
            walk.unify(added[-back], result[-back], node)
    return result


@rule(aten.scaled_dot_product_attention)
def _attention(walk: Walk, node: Node) -> Axes:
    query, key, value = (walk.of(argument) for argument in node.args[:3])
    walk.unify(query[-1], key[-1], node)
    walk.unify(key[-2], value[-2], node)
    grouped = bool(node.kwargs.get("enable_gqa", False))
    for i in range(len(query) - 2):
        walk.unify(key[i], value[i], node)
        if grouped and i == len(query) - 3 and walk.algebra.size(query[i]) != walk.algebra.size(key[i]):
            repeats = walk.algebra.size(query[i]) // walk.algebra.size(key[i])
            shared, _ = walk.algebra.split_product(query[i], walk.algebra.size(key[i]), repeats)
            walk.unify(shared, key[i], node)
        elif walk.algebra.size(query[i]) == walk.algebra.size(key[i]):
            walk.unify(query[i], key[i], node)
    _attention_mask(walk, node, query, key)
    _mark_heads(walk, query[1:-2])
    return [*query[:-1], value[-1]]


def _attention_mask(walk: Walk, node: Node, query: Axes, key: Axes) -> None:
    mask = _argument(node, 3, "attn_mask")
    if isinstance(mask, fx.Node):
        scores = [*query[:-1], key[-2]]
        for back, term in enumerate(reversed(walk.of(mask)), start=1):
            if back <= len(scores) and walk.algebra.size(term) == walk.algebra.size(scores[-back]):
                walk.unify(term, scores[-back], node)


@rule(aten.einsum)
def _einsum(walk: Walk, node: Node) -> Axes:
    equation, tensors = str(node.args[0]).replace(" ", ""), list(node.args[1])
    if "->" not in equation or "." in equation:
        raise MisfitError("an einsum without written result")
    inputs, output = equation.split("->")
    named: dict[str, Term] = {}
    for letters, tensor in zip(inputs.split(","), tensors, strict=True):
        for letter, term in zip(letters, walk.of(tensor), strict=True):
            known = named.setdefault(letter, term)
            if walk.algebra.size(known) == walk.algebra.size(term):
                walk.unify(known, term, node)
            else:
                named[letter] = known if walk.algebra.size(known) > 1 else term
    return [named[letter] for letter in output]
