"""Ranges of activations and shifts of biases without inputs, from what batch norm knows of the values.

Source: M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.2.1 and appendix C: before an activation the values of channel i are spread as N(beta_i, gamma_i^2), of
its batch norm; section 5: activations range over beta +- 6 gamma. Here other operations carry the distribution on (see `_spread`), and the
range is chosen on it as on a histogram of values seen.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from laconic.errors import NotApplicableError
from laconic.numeric.ranges import Histogram
from laconic.numeric.spread import Spread, weighted_sums
from laconic.program import Program, Weight, read
from laconic.program.fold import bias_of, foldable_norms, set_bias
from laconic.program.walk import argument, is_pointwise, where
from laconic.quantize.correct import give_biases

aten = torch.ops.aten
Limits: TypeAlias = tuple[float, float]

_SPREAD_ALIKE = (  # what comes out is spread as what went in; of means and maxima, which are narrower or lie higher, it is taken so
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.mean.dim,
    aten.dropout.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.constant_pad_nd.default,
    aten.pad.default,
)
_BINS = 2048
_RESHAPES = (aten.flatten.using_ints, aten.view.default, aten.reshape.default)


def norm_spreads(program: Program) -> dict[str, Spread]:
    """Return how the outputs of layers are spread, by the weight's name, as the batch norms say that `fold_batch_norm` will fold."""
    return {str(norm.args[0].args[1].target): _of_norm(program, norm) for norm in foldable_norms(program)}  # type: ignore[union-attr]


def value_spreads(program: Program, norms: Mapping[str, Spread]) -> dict[fx.Node, Spread]:
    """Return how the values of every node are spread of which that is known.

    Args:
        program: batch norms may have been folded.
        norms: the spreads of what layers give whose batch norms were, by the weight's name.
    """
    found = dict[fx.Node, Spread]()
    for node in program.graph.nodes:
        spread = _spread(program, node, found, norms)
        if spread is not None and node.meta["val"].shape[1:2] == (spread.channels,):
            found[node] = spread
    return found


def assumed_histograms(nodes: list[fx.Node], spreads: Mapping[fx.Node, Spread], inputs: Limits | None) -> dict[fx.Node, Histogram]:
    """Return what a histogram of the values of each node would be.

    Args:
        nodes: whose values are to be quantized.
        spreads: as far as they are known.
        inputs: the lowest and highest number that the network's inputs hold.

    Raises:
        NotApplicableError: nothing is known of the values of a node, or they are always zero.
    """
    found = dict[fx.Node, Histogram]()
    for node in nodes:
        if node.op == "placeholder" and inputs is not None:
            found[node] = Histogram(*inputs, torch.ones(_BINS))
        elif node in spreads:
            found[node] = spreads[node].histogram()
            if found[node].low == found[node].high == 0:
                raise NotApplicableError(f"by their batch norm the values of {where(node)} are all zero; exclude the layers around it")
        else:
            raise NotApplicableError(_unknown(node))
    return found


def correct_by_means(program: Program, chosen: list[Weight], means: Mapping[fx.Node, Tensor]) -> float:
    """Take from the biases what rounding adds to the mean outputs, `sum(rounded - weight) E[x]` (Nagel et al. 2019, eq. 17).

    Args:
        program: quantized, changed in place.
        chosen: the weights as they were before.
        means: of what layers read, by channel, for each layer of which they are known.

    Returns:
        The largest change.
    """
    largest = 0.0
    for weight in chosen:
        change = weight.value - read(program, weight.name).detach()
        for reader in [reader for reader in weight.readers if reader in means]:
            give_biases(program, [reader])
            shift = weighted_sums(_taps(change), means[reader])
            bias = bias_of(program, reader)
            assert bias is not None
            set_bias(program, reader, bias + shift)
            largest = max(largest, float(shift.abs().max()))
    program.recompile()
    return largest


def _spread(program: Program, node: Any, found: Mapping[fx.Node, Spread], norms: Mapping[str, Spread]) -> Spread | None:
    """Return how the values of a node are spread, given those before it; None where it is not known.

    Sums are of independent values, and normal. Layers without a batch norm weigh the values that they read as if these were independent.
    """
    if node.op != "call_function":
        return None
    if node.target is aten.batch_norm.default:
        return _of_norm(program, node)
    if is_layer(node):
        return norms.get(str(node.args[1].target)) or _weighted(program, node, found)
    read_values = [each for each in node.all_input_nodes if each.op != "get_attr"]
    if not read_values or len(read_values) < len(node.all_input_nodes) or any(each not in found for each in read_values):
        return None
    spreads = [found[each] for each in read_values]
    if node.target is aten.add.Tensor and len(spreads) == 2:
        return spreads[0].plus(spreads[1]) if spreads[0].channels == spreads[1].channels and not node.kwargs else None
    if node.target is aten.cat.default:
        return Spread(torch.cat([each.values for each in spreads])) if argument(node, "dim") == 1 else None
    if len(spreads) != 1:
        return None
    if node.target in _SPREAD_ALIKE:
        return spreads[0]
    if node.target in _RESHAPES:
        return _flattened(spreads[0], node)
    return spreads[0].through(lambda values: node.target(values, *node.args[1:], **node.kwargs)) if is_pointwise(node.target) else None


def _of_norm(program: Program, norm: fx.Node) -> Spread:
    """Return N(beta, gamma^2) for each channel."""
    gain, offset, mean, variance = (read(program, str(a.target)).detach() if isinstance(a, fx.Node) else None for a in norm.args[1:5])
    like = next(each for each in (gain, offset, mean, variance) if each is not None)
    return Spread.normal(
        torch.zeros_like(like) if offset is None else offset.clone(), torch.ones_like(like) if gain is None else gain.abs()
    )


def is_layer(node: Any) -> bool:
    """Say whether a node is a convolution or linear layer with a stored weight."""
    return str(node.target).startswith(("aten.conv", "aten.linear")) and node.args[1].op == "get_attr"


def _weighted(program: Program, node: Any, found: Mapping[fx.Node, Spread]) -> Spread | None:
    """Return how the outputs of a layer without batch norm are spread."""
    source = node.args[0]
    if source not in found or "transpose" in str(node.target):
        return None
    weight = read(program, str(node.args[1].target)).detach()
    expected = weight.shape[1] * int(argument(node, "groups", 1))
    is_sequence = weight.ndim == 2 and source.meta["val"].ndim != 2
    return found[source].weighted(_taps(weight), bias_of(program, node)) if expected == found[source].channels and not is_sequence else None


def _taps(weight: Tensor) -> Tensor:
    """Shape a weight as (out, in, positions of the kernel)."""
    return weight.reshape(*weight.shape[:2], -1)


def _flattened(spread: Spread, node: fx.Node) -> Spread | None:
    """Return the spread of (batch, features), where what was read is (batch, channels, ...)."""
    before, after = node.all_input_nodes[0].meta["val"].shape, node.meta["val"].shape
    if len(after) != 2 or len(before) < 2 or before[1] != spread.channels or after[1] % spread.channels:
        return None
    return Spread(spread.values.repeat_interleave(int(after[1]) // spread.channels, 0))


def _unknown(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "without calibration inputs the range of the network's inputs must be given: input_range: [LOWEST, HIGHEST]"
    return (
        f"no batch norm says what the values of {where(node)} are: this network has none before it, or they are folded into its layers "
        "already, or an operation between hides what they say; calibrate on inputs (calibration: inputs), or exclude the layers around it"
    )
