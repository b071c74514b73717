"""Bias correction: rounding shifts the mean of each channel's output, and the bias takes the shift back.

Source: M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.2 and appendix D: the empirical form. Here layers are corrected in network order in one pass,
each with all corrections before it in place.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, fx

from laconic.program import Program, place, read
from laconic.program.fold import bias_of, set_bias
from laconic.program.observe import observe


def channel_means(value: Tensor, axis: int) -> Tensor:
    """Return the mean of `value` for each index along `axis`, shape (channels,), in float64."""
    return value.double().movedim(axis, 0).flatten(1).mean(1)


def output_means(program: Program, layers: dict[str, int], inputs: Iterable[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """Return the mean output per channel of each layer (node name -> channel axis) over equally large batches."""
    nodes = [node for node in program.graph.nodes if node.name in layers]
    sums: dict[str, list[Tensor]] = {name: [] for name in layers}
    observe(program, inputs, nodes, lambda node, value: sums[node.name].append(channel_means(value, layers[node.name])))
    return {name: torch.stack(means).mean(0) for name, means in sums.items()}


def give_biases(program: Program, layers: Iterable[fx.Node]) -> None:
    """Add a bias of zeros to every layer that has none."""
    for node in layers:
        if bias_of(program, node) is None:
            weight = read(program, str(node.all_input_nodes[1].target))
            set_bias(program, node, torch.zeros(len(weight), dtype=torch.float32, device=weight.device))
    program.recompile()


def correct_biases(program: Program, layers: dict[str, int], wanted: dict[str, Tensor], inputs: tuple[Tensor, ...]) -> float:
    """Change the biases of `layers` so that their mean outputs on `inputs` become `wanted`; returns the largest change."""
    nodes = [node for node in program.graph.nodes if node.name in layers]
    give_biases(program, nodes)
    changes = [0.0]

    def correct(node: fx.Node, value: Tensor) -> Tensor:
        axis = layers[node.name]
        change = (wanted[node.name] - channel_means(value, axis)).float()
        name = str(node.args[2].target)  # type: ignore[union-attr]
        place(program, name, read(program, name).detach() + change)
        changes.append(float(change.abs().max()))
        shape = [1] * value.ndim
        shape[axis] = -1
        return value + change.reshape(shape)

    observe(program, [inputs], nodes, correct)
    return max(changes)
