"""The contract of every step, checked by the engine: something changed, the network still runs and trains, earlier gains are kept."""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from laconic.context import Context
from laconic.errors import LaconicError
from laconic.program import Program, clone, first_output, packed, weights
from laconic.program.forms import kept, quantizer_of
from laconic.program.represent import edges, represented, tensor_names

_PLAIN = "None True None"  # of a tensor without quantizer; part of the hashes on receipts


@dataclass(frozen=True)
class State:
    """What earlier steps gained, and a fingerprint of everything."""

    fingerprint: str
    zeros: dict[str, Tensor]  # by weight: True where a mask holds a zero
    bits: dict[str, float]  # by weight, or by the value behind which an edge stands: of a code, log2(3) where there are three
    entries: dict[str, int]  # by weight: how many
    nodes: frozenset[str]  # names of all values in the graph


def state_of(program: Program) -> State:
    """Record what a step must not lose."""
    forms = dict(represented(program))
    zeros = {name: ~keep for name, each in forms.items() if (keep := kept(each)) is not None}
    quantizers = {name: quantizer_of(each) for name, each in forms.items()}
    quantizers |= {str(node.args[0]): quantizer_of([form]) for node, form in edges(program).items()}
    bits = {name: math.log2(quantizer.base) for name, quantizer in quantizers.items() if quantizer is not None}
    entries = {weight.name: weight.value.numel() for weight in weights(program)}
    return State(fingerprint(program), zeros, bits, entries, frozenset(node.name for node in program.graph.nodes))


def fingerprint(program: Program) -> str:
    """Return a SHA-256 of the graph, of every tensor as the graph reads it, and of the form it is kept in."""
    digest = hashlib.sha256(str(program.graph).encode())
    for name in tensor_names(program):
        form = packed(program, name)
        how = _PLAIN if form.form is None else f"{form.form} {form.settings}"
        digest.update(f"{name} {form.shape} {how}".encode())
        for key, array in form.arrays.items():
            digest.update(f"{key} {array.dtype}".encode() + array.tobytes())
    for node, edge in edges(program).items():
        for key, tensor in edge.state_dict().items():
            digest.update(f"{node} {key}".encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def check(name: str, before: State, program: Program, context: Context) -> None:
    """Hold a step to its contract.

    Raises:
        LaconicError: the step changed nothing, broke the network, or undid an earlier gain; says which.
    """
    after = state_of(program)
    if after.fingerprint == before.fingerprint:
        raise LaconicError(f"{name} changed nothing: its settings leave this network as it was; choose stronger settings or drop the step")
    _check_gains(name, before, after)
    _check_runs(name, program, context)


def _check_gains(name: str, before: State, after: State) -> None:
    for weight, zeros in before.zeros.items():
        kept = after.zeros.get(weight)
        if weight in after.entries and (kept is None or (kept.shape == zeros.shape and bool((zeros & ~kept).any()))):
            raise LaconicError(f"{name} undid the pruning of {weight}: entries that were held at zero are free again")
    for quantized, bits in before.bits.items():
        if (quantized in after.entries or quantized in after.nodes) and after.bits.get(quantized, 32) > bits:
            raise LaconicError(f"{name} undid the quantization of {quantized}: it had {bits:.3g} bits")
    for weight, entries in before.entries.items():
        if after.entries.get(weight, 0) > entries:
            raise LaconicError(f"{name} made {weight} larger: {entries} entries before, {after.entries[weight]} after")


def _check_runs(name: str, program: Program, context: Context) -> None:
    trial = clone(program).train()
    outputs = trial(*context.example())
    logits = first_output(outputs)
    if not torch.isfinite(logits).all():
        raise LaconicError(f"after {name} the network's outputs are not finite numbers")
    trainable = [parameter for parameter in trial.parameters() if parameter.requires_grad]
    if trainable and logits.requires_grad:
        nn.functional.cross_entropy(logits.flatten(1), logits.flatten(1).argmax(1)).backward()
    if not any(parameter.grad is not None for parameter in trainable):
        raise LaconicError(f"after {name} the network cannot be trained any more: no parameter gets a gradient")
