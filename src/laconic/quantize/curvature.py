"""What each width of each weight and activation costs by the curvature of the loss: the squared rounding error times the mean curvature.

Source: Z. Dong, Z. Yao, D. Arfeen, A. Gholami, M. W. Mahoney, K. Keutzer, "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural
Networks", NeurIPS 2020, eq. 2.11: the mean of the Hessian's diagonal times the squared rounding error, with the trace by Hutchinson's
method, for weights and for activations. Half of it is the growth of the loss to second order, when errors have no direction.

The loss is the divergence of the softmax from the float network's, so there are no labels. There its Hessian is exactly J' F J, with J the
derivative of the logits and F = diag(p) - p p' (J. Martens, "New Insights and Perspectives on the Natural Gradient Method", Journal of
Machine Learning Research 21, 2020, section 9). Hutchinson's random signs u are therefore put behind the root of F, tr(J' F J) =
E |J' F^(1/2) u|^2: one backward pass each, and no second derivatives.
"""

import torch
from torch import Tensor, fx

from laconic.program import Uniform
from laconic.program.observe import stepwise
from laconic.quantize.candidates import Candidates
from laconic.quantize.placement import Sites
from laconic.quantize.sensitivity import Losses

_PROBES = 8  # random signs for each example
_AT_ONCE = 16  # examples whose values are kept for the backward pass


def root_times(probabilities: Tensor, signs: Tensor) -> Tensor:
    """Return B u for a B with `B B' = diag(p) - p p'`: `B = (I - p 1') diag(sqrt(p))`, along the last axis."""
    moved = probabilities.sqrt() * signs
    return moved - probabilities * moved.sum(-1, keepdim=True)


def divergence(found: Tensor, wanted: Tensor) -> float:
    """Return the Kullback-Leibler divergence of softmaxes over the last axis, in nats, averaged over everything else."""
    theirs, ours = (logits.double().log_softmax(-1) for logits in (wanted, found))
    return float((theirs.exp() * (theirs - ours)).sum(-1).mean())


def loss_by_curvature(candidates: Candidates, inputs: Tensor, generator: torch.Generator) -> Losses:
    """Return by how much the divergence of the softmax grows, in nats, to second order, when one thing alone is quantized.

    Args:
        candidates: things and widths.
        inputs: calibration inputs, (examples, ...); logits have the classes last.
        generator: of the signs.
    """
    sites, share = candidates.sites, 1 / len(inputs)
    traces = dict.fromkeys((*(weight.name for weight in sites.weights), *sites.points), 0.0)
    errors = {node: dict.fromkeys(candidates.activation_bits, 0.0) for node in sites.points}
    for part in inputs.split(_AT_ONCE):
        output, leaves = _recorded(sites, part)
        for each, trace in _traces(output, leaves, generator).items():
            traces[each] += share * trace
        for node, of_node in errors.items():
            for bits in of_node:
                of_node[bits] += share * len(part) * _mean_square(candidates.value_grid(node, bits), leaves[node].detach())
    return Losses(
        {
            weight.name: {
                bits: traces[weight.name] * float((candidates.nearest(weight, bits) - weight.value).square().mean()) / 2
                for bits in candidates.weight_bits
            }
            for weight in sites.weights
        },
        {node: {bits: traces[node] * error / 2 for bits, error in of_node.items()} for node, of_node in errors.items()},
    )


def _recorded(sites: Sites, inputs: Tensor) -> tuple[Tensor, dict[str | fx.Node, Tensor]]:
    """Return the logits, and the weights and values on whose way to them gradients are kept."""
    names = {reader.all_input_nodes[1]: weight.name for weight in sites.weights for reader in weight.readers}
    leaves: dict[str | fx.Node, Tensor] = {weight.name: weight.value.detach().clone().requires_grad_() for weight in sites.weights}
    previous: fx.Node | None = None
    with torch.enable_grad():
        for node, values in stepwise(sites.program.eval(), (inputs,)):
            if previous is None:
                pass
            elif previous in names:
                values[previous] = leaves[names[previous]]
            elif previous in sites.points:
                value = values[previous]
                values[previous] = leaves[previous] = value if value.requires_grad else value.detach().requires_grad_()
            if node.op == "output":
                return values[node.all_input_nodes[0]], leaves
            previous = node
    raise AssertionError("a program ends in its output")


def _traces(output: Tensor, leaves: dict[str | fx.Node, Tensor], generator: torch.Generator) -> dict[str | fx.Node, float]:
    """Return the trace of the Hessian in each leaf, summed over examples, as estimated."""
    found = dict.fromkeys(leaves, 0.0)
    probabilities = output.detach().softmax(-1)
    for _ in range(_PROBES):
        signs = torch.randint(2, output.shape, generator=generator).to(output) * 2 - 1
        gradients = torch.autograd.grad(output, list(leaves.values()), root_times(probabilities, signs), retain_graph=True)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            found[leaf] += float(gradient.double().square().sum()) / _PROBES
    return found


@torch.no_grad()
def _mean_square(grid: Uniform, values: Tensor) -> float:
    """Return the mean squared error of values on a grid."""
    return float((grid(values) - values).square().mean())
