"""Learned rounding: every weight goes up or down, whichever makes its layer's output come nearest to what it was.

Source: M. Nagel, R. A. Amjad, M. van Baalen, C. Louizos, T. Blankevoort, "Up or Down? Adaptive Rounding for Post-Training
Quantization", ICML 2020: the relaxed rounding of eq. 22 and 23, pushed to 0 or 1 by the regularizer of eq. 24, towards the float layer's
output on inputs that come out of the quantized layers before it (eq. 25, without the activation function).

Without the activation function the error is quadratic in the weights, and the moments of the inputs say all about it. So no inputs are
kept, every iteration is on all of them, and the outputs of a layer are independent problems, each in units of its error when rounded to
nearest. Beyond the paper, single weights are turned afterwards, the one that gains most first, for as long as one gains.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from laconic.context import Context
from laconic.numeric.rounding import broadcast, levels
from laconic.program import Program, Uniform, Weight, read
from laconic.program.fold import assign
from laconic.program.layers import Layer, layer_at
from laconic.program.observe import Stop, examples_at_once, side_by_side
from laconic.program.represent import representations
from laconic.quantize.correct import give_biases
from laconic.train.progress import bar

_ZETA, _GAMMA = 1.1, -0.1  # how far the sigmoid is stretched beyond 1 and 0 (eq. 23)
_SHARPNESS = (20.0, 2.0)  # of the regularizer, at its start and at the end
_WARM = 0.2  # share of the iterations without the regularizer
_STRENGTH = 64.0  # of the regularizer's mean over the weights of an output, in units of its error when rounded to nearest
_RATE = 0.02  # of Adam
_ROWS = 1 << 16  # inputs of a layer that its moments are made of, at most
_UNFOLDED = 1 << 26  # numbers of a layer's inputs at once


def relaxed(inner: Tensor) -> Tensor:
    """Return how far up each weight goes, in [0, 1]: a sigmoid, stretched and cut (eq. 23)."""
    return torch.clamp(torch.sigmoid(inner) * (_ZETA - _GAMMA) + _GAMMA, 0, 1)


def relaxed_start(share: Tensor) -> Tensor:
    """Return what `relaxed` makes `share` of."""
    return torch.logit((share - _GAMMA) / (_ZETA - _GAMMA))


def regularizer(up: Tensor, progress: float) -> Tensor:
    """Return what each weight costs that is neither up nor down (eq. 24); nothing at first, ever more sharply towards `progress` 1."""
    left = 1 - (progress - _WARM) / (1 - _WARM)
    sharpness = _SHARPNESS[1] + (_SHARPNESS[0] - _SHARPNESS[1]) * left
    return torch.zeros_like(up) if progress <= _WARM else 1 - (2 * up - 1).abs() ** sharpness


def learned_codes(scaled: Tensor, moments: Tensor, products: Tensor, limits: tuple[int, int], iterations: int) -> Tensor:
    """Return whole numbers next to `scaled` for which the error of the outputs is small.

    The error of an output is `q G q - 2 q p + constant` for its row q of codes and p of `products`, computed for what codes are away from
    the weights, in small numbers.

    Args:
        scaled: (groups, out, in) weights in units of their scale.
        moments: (groups, in, in) G: second moments of the inputs.
        products: (groups, out, in) p: of the inputs with the wanted outputs, in units of the scale.
        limits: the lowest and highest code.
        iterations: of Adam.
    """
    scaled = scaled.clamp(*limits)
    low = scaled.floor().clamp(max=limits[1] - 1)
    share = scaled - low
    nearest = torch.where(scaled == 0, scaled, scaled.round())
    gap = products - scaled @ moments
    unit = _errors(nearest - scaled, moments, torch.zeros_like(gap)).clamp_min(1e-12)
    inner = relaxed_start(share).requires_grad_()
    optimizer = torch.optim.Adam([inner], lr=_RATE)
    with torch.enable_grad():
        for iteration in range(iterations):
            up = relaxed(inner)
            codes = torch.where(scaled == 0, scaled, low + up)
            loss = (_errors(codes - scaled, moments, gap) / unit).sum()
            loss = loss + _STRENGTH * regularizer(up, iteration / iterations).mean(-1).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    learned = torch.where(scaled == 0, scaled, low + (inner.detach() >= 0))
    better = _errors(learned - scaled, moments, gap) < _errors(nearest - scaled, moments, gap)
    codes = torch.where(better[..., None], learned, nearest)
    return _turned(codes, low, scaled != 0, moments, (codes - scaled) @ moments - gap)


def _turned(codes: Tensor, low: Tensor, free: Tensor, moments: Tensor, slope: Tensor) -> Tensor:
    """Turn, in every output, the one rounding that lowers its error most, until none does.

    With the slope `g = q G - p`, turning weight i by d = 1 or -1 changes the error by `2 d g_i + G_ii`.
    """
    codes, curvature = codes.clone(), moments.diagonal(dim1=-2, dim2=-1)[:, None]
    group = torch.arange(len(moments), device=codes.device)[:, None]
    for _ in range(codes.shape[-1]):
        step = torch.where(codes > low, -1.0, 1.0)
        change = torch.where(free, 2 * step * slope + curvature, torch.inf)
        least, which = change.min(-1, keepdim=True)
        turn = torch.where(least < 0, step.gather(-1, which), 0.0)
        if not turn.any():
            break
        codes.scatter_add_(-1, which, turn)
        slope = slope + turn * moments[group, which[..., 0]]
    return codes


def _errors(away: Tensor, moments: Tensor, gap: Tensor) -> Tensor:
    """Return the error of every output, (groups, out), up to a constant, for codes that are so far away from the weights."""
    return (away * (away @ moments - 2 * gap)).sum(-1)


@dataclass(frozen=True)
class _Moments:
    """What is known of the inputs of a layer and of the outputs it should have, group by group."""

    inputs: Tensor  # (groups, in) means
    outputs: Tensor  # (groups, out) means
    moments: Tensor  # (groups, in, in) mean products of the inputs
    products: Tensor  # (groups, out, in) mean products of outputs and inputs


@torch.no_grad()
def round_layers(
    program: Program,
    whole: Program,
    chosen: list[Weight],
    context: Context,
    iterations: int,
    biases: bool,
    on_the_way: Callable[[Iterator[Stop]], Iterator[Stop]] = iter,
) -> list[str]:
    """Learn the rounding of quantized weights, layer by layer in network order, each behind the layers before it as they are by then.

    Args:
        program: quantized, changed in place.
        whole: the network before, whose nodes have the same names.
        chosen: the quantized weights.
        context: gives calibration inputs, and randomness for which of their positions are taken.
        iterations: per layer.
        biases: whether biases take what the mean output has shifted by.
        on_the_way: what else is done at the stops of the run.

    Returns:
        The weights whose rounding was not learned, because several layers or none of `program.layers` read them.
    """
    nodes = {weight.readers[0] for weight in chosen if len(weight.readers) == 1 and layer_at(weight.readers[0])}
    if biases:
        give_biases(program, nodes)
    inputs, generator = torch.cat(list(context.calibration()))[: examples_at_once(program)], context.generator()
    done = set[str]()
    with bar("rounding", 0, len(nodes)) as tell:
        for node, values, reference in on_the_way(side_by_side(program.eval(), whole.eval(), inputs)):
            layer = layer_at(node) if node in nodes else None
            if layer is not None and reference is not None:
                measured = _measured(layer, values[layer.source], reference, generator)
                _round(program, layer, read(whole, layer.weight).detach(), measured, iterations, biases)
                values[node.all_input_nodes[1]] = read(program, layer.weight).detach()
                done.add(layer.weight)
                tell(len(done), layer.weight)
    return [weight.name for weight in chosen if weight.name not in done]


def _measured(layer: Layer, inputs: Tensor, outputs: Tensor, generator: torch.Generator) -> _Moments:
    """Measure the moments at positions drawn at random, as many of each example."""
    per_example = layer.targets(outputs[:1]).shape[0]
    drawn = min(per_example, max(1, _ROWS // len(inputs)))
    groups, step = layer.groups, max(1, _UNFOLDED // (per_example * layer.inputs * layer.groups))
    sums: list[Tensor] = []
    for start in range(0, len(inputs), step):
        part = inputs[start : start + step]
        index = torch.cat([i * per_example + torch.randperm(per_example, generator=generator)[:drawn] for i in range(len(part))])
        rows = _grouped(layer.rows(part)[index.to(part.device)], groups)
        wanted = _grouped(layer.targets(outputs[start : start + step])[index.to(part.device)], groups)
        parts = [rows.sum(1), wanted.sum(1), rows.mT @ rows, wanted.mT @ rows]
        sums = [total + each.double() for total, each in zip(sums, parts, strict=True)] if sums else [each.double() for each in parts]
    return _Moments(*(total / (drawn * len(inputs)) for total in sums))


def _grouped(rows: Tensor, groups: int) -> Tensor:
    """Split the columns of (positions, groups * n) by group: (groups, positions, n)."""
    return rows.reshape(len(rows), groups, -1).transpose(0, 1)


def _round(program: Program, layer: Layer, dense: Tensor, measured: _Moments, iterations: int, biases: bool) -> None:
    """Set the weight of a layer to the learned codes of `dense`, and its bias to what gives the wanted means."""
    [grid] = [form for form in representations(program, layer.weight) if isinstance(form, Uniform)]
    scale = broadcast(grid.step.detach(), dense, grid.axis).expand(len(dense), *[1] * (dense.ndim - 1))
    shape = (layer.groups, -1, layer.inputs)
    moments, products = measured.moments, measured.products
    if biases:
        moments = moments - measured.inputs[:, :, None] * measured.inputs[:, None]
        products = products - measured.outputs[:, :, None] * measured.inputs[:, None]
    elif layer.bias is not None:
        products = products - read(program, layer.bias).detach().reshape(layer.groups, -1, 1) * measured.inputs[:, None]
    in_units = products.float() / scale.reshape(layer.groups, -1, 1)
    codes = learned_codes((dense / scale).reshape(shape), moments.float(), in_units, levels(grid.bits, grid.signed), iterations)
    assign(program, layer.weight, codes.reshape(dense.shape) * scale)
    if biases and layer.bias is not None:
        rounded = read(program, layer.weight).reshape(shape).double()
        means = measured.outputs - (rounded @ measured.inputs[:, :, None])[..., 0]
        assign(program, layer.bias, means.flatten().float())
