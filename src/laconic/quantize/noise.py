"""Which activations stay float, by measured noise: the fewest multiplications that keep the outputs from a wanted signal to noise.

Source: D. Lin, S. Talathi, S. Annapureddy, "Fixed Point Quantization of Deep Convolutional Networks", ICML 2016, section 3 (the signal to
quantization noise ratio as the measure of what rounding does to a network); M. Nagel et al., "A White Paper on Neural Network
Quantization", arXiv:2106.08295, section 3.6 (one quantizer at a time, to find those that hurt). Here each is left out of the network with
all others in place, so that what it costs is measured among the others' noise.
"""

from collections import defaultdict
from dataclasses import dataclass
from math import inf, log10, prod

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from laconic.errors import LaconicError
from laconic.program import Program, first_output, weights
from laconic.program.represent import edges, release_edge
from laconic.quantize.placement import kernels_around


@dataclass(frozen=True)
class Kept:
    """What stays float, and the signal to noise in dB of the outputs with nothing in float and with that."""

    layers: tuple[str, ...]  # names of the layers that read it
    macs: float  # their share of the multiplications of all layers
    before: float
    after: float


def signal_to_noise(wanted: Tensor, given: Tensor) -> float:
    """Return 10 log10(|wanted|² / |given - wanted|²), in dB.

    >>> signal_to_noise(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5]))
    20.0
    """
    noise = float(((given - wanted).double() ** 2).sum())
    return 10 * log10(float((wanted.double() ** 2).sum()) / noise) if noise else inf


@torch.no_grad()
def outputs(program: Program, batches: list[Tensor]) -> Tensor:
    """Return the first output on all inputs, in eval mode."""
    training = program.training
    program.eval()
    with parametrize.cached():
        results = [program(batch) for batch in batches]
    program.train(training)
    return torch.cat([first_output(result) for result in results])


def keep_in_float(program: Program, reference: Tensor, batches: list[Tensor], wanted: float) -> Kept:
    """Take quantizers of activations out of a quantized program, in place, until its outputs reach `wanted` dB.

    They are ranked by the noise that goes with each, per multiplication of the layers around it; the shortest beginning of that
    ranking that is enough is found by bisection, each try measured.

    Args:
        program: with quantizers on weights and edges.
        reference: what the float network computes on all `batches`.
        batches: inputs.
        wanted: signal to noise of the outputs in dB.

    Raises:
        LaconicError: not even with all activations in float.
    """
    grids = _Grids(program, reference, batches)
    before, ranked = grids.measured([]), list[str]()
    if before < wanted:
        ranked = grids.ranking(before)
        most = grids.measured(ranked)
        if most < wanted:
            raise LaconicError(
                f"signal_to_noise={wanted:g} dB cannot be reached: with all activations in float the weights alone give {most:.1f} dB; "
                "give weights more bits, or want less"
            )
    enough, too_few, after = (len(ranked), -1, before) if not ranked else (len(ranked), 0, inf)
    while enough - too_few > 1:
        tried = (enough + too_few) // 2
        enough, too_few = (tried, too_few) if grids.measured(ranked[:tried]) >= wanted else (enough, tried)
    after = grids.measured(ranked[:enough])
    layers = {layer for target in ranked[:enough] for layer in grids.layers[target]}
    for target in ranked[:enough]:
        release_edge(program, target)
    share = sum(map(_macs, layers)) / max(1, sum(map(_macs, grids.all_layers)))
    return Kept(tuple(grids.name(layer) for layer in grids.all_layers if layer in layers), share, before, after)


class _Grids:
    """The grids of a program's activations, which can be left out for a measurement."""

    def __init__(self, program: Program, reference: Tensor, batches: list[Tensor]) -> None:
        self._program, self._reference, self._batches = program, reference, batches
        self._places = defaultdict[str, list[fx.Node]](list)
        for node in edges(program):
            self._places[str(node.target)].append(node)
        self._names = {reader: weight.name.rpartition(".")[0] for weight in weights(program) for reader in weight.readers}
        self.all_layers = [node for node in program.graph.nodes if node in self._names and node.meta["val"].ndim > 1]
        self.layers = {target: kernels_around(nodes, set(self.all_layers)) for target, nodes in self._places.items()}

    def name(self, layer: fx.Node) -> str:
        return self._names[layer]

    def measured(self, left_out: list[str]) -> float:
        """Return the signal to noise without the named grids."""
        taken = {target: self._program.get_submodule(target) for target in left_out}
        for target in taken:
            self._program.set_submodule(target, nn.Identity())
        found = signal_to_noise(self._reference, outputs(self._program, self._batches))
        for target, module in taken.items():
            self._program.set_submodule(target, module)
        return found

    def ranking(self, before: float) -> list[str]:
        """Return the grids, first the one whose noise is largest for the multiplications around it."""
        noise = 10 ** (-before / 10)
        gain = {target: noise - 10 ** (-self.measured([target]) / 10) for target in self._places}
        cost = {target: max(1, sum(map(_macs, layers))) for target, layers in self.layers.items()}
        return sorted(gain, key=lambda target: gain[target] / cost[target], reverse=True)


def _macs(layer: fx.Node) -> int:
    """Return the multiplications of one example in a layer."""
    weight = next(node.meta["val"] for node in layer.all_input_nodes[1:])
    return prod(int(size) for size in layer.meta["val"].shape[1:]) * prod(int(size) for size in weight.shape[1:])
