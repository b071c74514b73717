"""Fold batch norm into the convolution or linear layer before it: the same function with fewer operations."""

from itertools import count
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils import parametrize

from laconic.program.forms import Quantizer, Representation
from laconic.program.program import Program, holder, own_tensors, place, read, tidy
from laconic.program.represent import representations, represented, stored_tensor
from laconic.program.scaled import Scaled

aten = torch.ops.aten
_CONVOLUTIONS = (aten.conv1d, aten.conv2d, aten.conv3d)
_FOLDABLE = (aten.linear.default, *(overload for conv in _CONVOLUTIONS for overload in (conv.default, conv.padding)))

_CONSTANT = 1e-3  # of a norm's epsilon: an input of less variance does not vary


def fold_batch_norm(program: Program) -> list[str]:
    """Fold every batch norm that alone reads a convolution or linear layer; returns the names of the layers folded into.

    With `w' = w g / sqrt(v + eps)` and `b' = (b - m) g / sqrt(v + eps) + beta` the layer computes what both computed in eval mode
    (B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018,
    eq. 14). Zeros stay zeros, and codes stay codes where the levels are as many below 0 as above it, with a scale for each output
    channel: the scale takes the factor. Into weights that are quantized otherwise nothing is folded, since their levels would be lost.
    """
    folded = []
    for norm in foldable_norms(program):
        layer: Any = norm.args[0]
        _fold(program, layer, norm)
        folded.append(str(layer.args[1].target))
    tidy(program)
    return folded


def foldable_norms(program: Program) -> list[fx.Node]:
    """Return the batch norms that `fold_batch_norm` would fold, in graph order."""
    kept = {name for name, forms in represented(program) if not all(_can_scale(form) for form in forms)}
    norms = [node for node in program.graph.nodes if node.target is aten.batch_norm.default]
    return [norm for norm in norms if _can_fold(norm.args[0], norm) and str(norm.args[0].args[1].target) not in kept]


def _can_fold(layer: fx.Node, norm: fx.Node) -> bool:
    if layer.target not in _FOLDABLE or list(layer.users) != [norm] or norm.args[3] is None:
        return False
    sources = [argument for argument in layer.args[1:3] if isinstance(argument, fx.Node)]
    channels_last_axis = layer.target is not aten.linear.default or len(layer.meta["val"].shape) == 2
    return channels_last_axis and all(source.op == "get_attr" and len(source.users) == 1 for source in sources)


def _can_scale(form: Representation) -> bool:
    """Say whether a form follows when every output channel is multiplied by a factor of its own."""
    return not isinstance(form, Quantizer) or (isinstance(form, Scaled) and form.axis == 0 and form.is_symmetric)


def _fold(program: Program, layer: fx.Node, norm: fx.Node) -> None:
    name = str(_argument(layer, 1).target)
    factor, shift = _scale_and_shift(program, norm)
    bias = _argument(layer, 2)
    before = read(program, str(bias.target)).detach() if bias is not None else torch.zeros_like(shift)
    with torch.no_grad():
        _scale(program, name, factor)
    set_bias(program, layer, before * factor + shift)
    norm.replace_all_uses_with(layer)
    program.graph.erase_node(norm)


def _scale(program: Program, name: str, factor: Tensor) -> None:
    """Multiply the output channels of a weight, and the scales of its quantizers."""
    forms = [form for form in representations(program, name) if isinstance(form, Scaled)]
    weight = stored_tensor(program, name) if forms else read(program, name)
    for form in forms:
        form.scale.mul_(factor.abs().reshape(-1, *[1] * (form.scale.ndim - 1)))
    assign(program, name, weight.detach() * factor.reshape(-1, *[1] * (weight.ndim - 1)))


def absorb_statistics(program: Program) -> list[str]:
    """Move the running statistics of every batch norm into its gain and offset; returns the names of these, in graph order.

    In eval mode the network computes the same with two vectors in place of four, for the statistics become 0 and 1. In train mode it does
    not, until it has learned other gains: do this when training is over. Norms that share a tensor with another reader, or have no gain
    and offset, stay.

    A channel whose input did not vary, since all its weights are zero, say, has its offset for an output, and no gain: that would be a
    number far larger than all others, divided by the root of the norm's epsilon alone.
    """
    found = []
    for norm in [node for node in program.graph.nodes if node.target is aten.batch_norm.default]:
        sources = norm.args[1:5]
        if not all(isinstance(source, fx.Node) and source.op == "get_attr" and len(source.users) == 1 for source in sources):
            continue
        factor, shift = _scale_and_shift(program, norm)
        gain, offset, mean, variance = (str(source.target) for source in sources)
        epsilon = float(norm.args[7])
        with torch.no_grad():
            is_constant = read(program, variance) < _CONSTANT * epsilon
            shift = torch.where(is_constant, read(program, offset), shift)
            factor = torch.where(is_constant, 0.0, factor)
            values = (factor * (1 + epsilon) ** 0.5, shift, torch.zeros_like(shift), torch.ones_like(shift))
            for name, value in zip((gain, offset, mean, variance), values, strict=True):
                assign(program, name, value)
        found += [gain, offset]
    return found


def set_bias(program: Program, layer: fx.Node, value: Tensor) -> None:
    """Give a convolution or linear layer the bias `value` of shape (channels,), adding one where it has none."""
    bias = _argument(layer, 2)
    name = str(bias.target) if bias is not None else _free_name(program, str(_argument(layer, 1).target).rpartition(".")[0], "bias")
    place(program, name, value)
    if bias is None:
        with program.graph.inserting_before(layer):
            node = program.graph.get_attr(name)
        node.meta = {"val": value.detach()}
        layer.args = (*layer.args[:2], node, *layer.args[3:])


def _free_name(program: Program, path: str, attribute: str) -> str:
    """Return a name beside the layer's weight that no other tensor has."""
    prefix = f"{path}." if path else ""
    taken = set(own_tensors(program))
    return next(name for i in count() if (name := f"{prefix}{attribute}_{i}" if i else f"{prefix}{attribute}") not in taken)


def bias_of(program: Program, layer: fx.Node) -> Tensor | None:
    """Return the bias of a convolution or linear layer, shape (channels,), or None."""
    name = bias_name(layer)
    return None if name is None else read(program, name).detach()


def bias_name(layer: fx.Node) -> str | None:
    """Return the name of the bias of a convolution or linear layer, or None."""
    bias = _argument(layer, 2)
    return None if bias is None else str(bias.target)


def _argument(node: fx.Node, position: int) -> Any:
    return node.args[position] if len(node.args) > position else None


def assign(program: Program, name: str, value: Tensor) -> None:
    """Give the tensor called `name` another value of its shape, through its representations where it has any; without gradients only."""
    module, attribute = holder(program, name)
    if parametrize.is_parametrized(module, attribute):
        setattr(module, attribute, value)
    else:
        getattr(module, attribute).copy_(value)


def _scale_and_shift(program: Program, norm: fx.Node) -> tuple[Tensor, Tensor]:
    gain, offset, mean, variance = (read(program, str(a.target)).detach() if isinstance(a, fx.Node) else None for a in norm.args[1:5])
    assert mean is not None
    assert variance is not None
    factor = torch.rsqrt(variance + float(norm.args[7]))  # type: ignore[arg-type]
    factor = factor if gain is None else factor * gain
    shift = -mean * factor
    return factor, shift if offset is None else shift + offset
