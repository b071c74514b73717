"""SmoothQuant: the unevenness of a linear layer's input channels is migrated into its weights, which grids per channel bear better.

Source: G. Xiao, J. Lin, M. Seznec, H. Wu, J. Demouth, S. Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
Language Models", ICML 2023, eq. 3 and 4: input channel j is divided by s_j = max|X_j|^a / max|W_j|^(1-a), its weights are multiplied by
it, and the network computes the same.

As there, the division is folded into the layer norm before, where nothing else reads that. Where other operations read it too (behind
the norms of BERT the residual sum does) or what comes before is no norm, the source leaves layers as they are; here the input is
multiplied by 1 / s, one product per entry.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

from laconic.program import Program, Weight, place, read
from laconic.program.fold import assign
from laconic.program.forms import quantizer_of
from laconic.program.observe import observe
from laconic.program.represent import representations
from laconic.program.walk import argument

aten = torch.ops.aten

_NORMS = (aten.layer_norm.default, aten.rms_norm.default)
_PASSING = (aten.mul.Tensor, aten.relu.default, aten.dropout.default)  # operations that pass a positive factor of a channel on
_NEGLIGIBLE = 1e-5  # share of the largest channel below which a channel keeps its scale, which says nothing


def migrated(inputs: Tensor, weights: Tensor, strength: float) -> Tensor:
    """Return what to divide input channels by and multiply their weights by: eq. 4, `s = max|X|^a / max|W|^(1-a)`.

    Args:
        inputs: (channels,) largest magnitude of each input channel.
        weights: (channels,) largest magnitude of the weights that read it.
        strength: a; 1 makes all inputs even, 0 all weights.

    >>> migrated(torch.tensor([16.0, 1.0, 0.0]), torch.tensor([1.0, 4.0, 1.0]), 0.5)
    tensor([4.0000, 0.5000, 1.0000])
    """
    alive = (inputs > _NEGLIGIBLE * inputs.max()) & (weights > _NEGLIGIBLE * weights.max())
    one = torch.ones_like(inputs)
    return torch.where(alive, torch.where(alive, inputs, one) ** strength / torch.where(alive, weights, one) ** (1 - strength), one)


def smooth(program: Program, chosen: list[Weight], batches: list[Tensor], strength: float) -> tuple[int, int]:
    """Smooth what the chosen linear layers read, in place; what the program computes stays the same.

    Returns:
        How many inputs are smoothed, and how many of them in the norm that makes them.
    """
    readers = linear_readers(program, chosen)
    largest: dict[fx.Node, Tensor] = {}

    def look(node: fx.Node, value: Tensor) -> None:
        seen = value.abs().flatten(0, -2).amax(0)
        largest[node] = torch.maximum(seen, largest.get(node, seen))

    observe(program, ((batch,) for batch in batches), list(readers), look)
    folded = 0
    for source, layers in readers.items():
        names = list(dict.fromkeys(str(layer.all_input_nodes[1].target) for layer in layers))
        scale = migrated(largest[source], torch.stack([read(program, name).detach().abs().amax(0) for name in names]).amax(0), strength)
        for name in names:
            with torch.no_grad():
                assign(program, name, read(program, name).detach() * scale)
        folded += _divide(program, source, layers, scale)
    program.recompile()
    return len(readers), folded


def linear_readers(program: Program, chosen: list[Weight]) -> dict[fx.Node, list[fx.Node]]:
    """Return what linear layers read, each with them: all readers of their weights are chosen, and no weight is read from two places."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for weight in chosen:
        sources = {reader.all_input_nodes[0] for reader in weight.readers}
        if len(sources) == 1 and all(reader.target is aten.linear.default for reader in weight.readers):
            found.setdefault(sources.pop(), []).extend(weight.readers)
    return {node: found[node] for node in program.graph.nodes if node in found}


def _divide(program: Program, source: fx.Node, layers: list[fx.Node], scale: Tensor) -> bool:
    """Divide what `layers` read of `source` by `scale`; says whether the norm there took it."""
    tensors = makers(program, source, layers) if source.target is aten.layer_norm.default else ()
    if tensors:
        divide(program, tensors, scale)
        return True
    name = f"{str(layers[0].all_input_nodes[1].target).rpartition('.')[0]}.smoothing".lstrip(".")
    place(program, name, 1 / scale)
    with program.graph.inserting_after(source):
        factor = program.graph.get_attr(name)
    factor.meta = {"val": 1 / scale}
    with program.graph.inserting_after(factor):
        product = program.graph.call_function(aten.mul.Tensor, (source, factor))
    product.meta = dict(source.meta)
    for layer in layers:
        layer.replace_input_with(source, product)
    return False


def makers(program: Program, source: fx.Node, layers: Collection[fx.Node]) -> tuple[str, ...]:
    """Return the tensors whose division along their first axis divides the last axis of what `layers` read, and nothing else.

    They are gain and offset of a norm, or weight and bias of a linear layer; what is multiplied by something else on the way, or passes
    ReLU, is divided with either. There are none where anything else reads the values, or the tensors, or these are quantized.
    """
    if set(source.users) != set(layers):
        return ()
    if source.target in _NORMS or source.target is aten.linear.default:
        nodes = [argument(source, name) for name in ("weight", "bias")]
        found = [node for node in nodes if node is not None]
        whole = nodes[0] is not None and all(_is_own(program, node) for node in found)
        return tuple(str(node.target) for node in found) if whole and _last_axis_is_its_own(source, nodes[0]) else ()
    if source.target in _PASSING:
        shape = source.meta["val"].shape[1:]
        values = [(node, node.meta["val"]) for node in source.all_input_nodes if source.args.count(node) == 1]
        once = [node for node, value in values if isinstance(value, Tensor) and value.shape[1:] == shape]
        return next((names for node in once if (names := makers(program, node, [source]))), ())
    return ()


def _last_axis_is_its_own(source: fx.Node, weight: fx.Node) -> bool:
    """Say whether the first axis of a weight is the last of what it makes: not where a norm spans several."""
    return source.target is aten.linear.default or weight.meta["val"].ndim == 1


def divide(program: Program, tensors: Collection[str], scale: Tensor) -> None:
    """Divide tensors along their first axis."""
    with torch.no_grad():
        for name in tensors:
            value = read(program, name).detach()
            assign(program, name, value / scale.reshape(-1, *[1] * (value.ndim - 1)))


def _is_own(program: Program, node: Any) -> bool:
    """Say whether an argument is a stored tensor that is read here alone and is not quantized."""
    if not isinstance(node, fx.Node) or node.op != "get_attr" or len(_reads(program, str(node.target))) != 1:
        return False
    return quantizer_of(representations(program, str(node.target))) is None


def _reads(program: Program, name: str) -> list[fx.Node]:
    return [user for node in program.graph.nodes if node.op == "get_attr" and node.target == name for user in node.users]
