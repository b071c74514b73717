"""Rankings: what taking each channel of each group costs, as channels go."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from laconic.context import Context
from laconic.errors import NotApplicableError
from laconic.numeric.elimination import LARGEST, Elimination, elimination
from laconic.numeric.moments import Moments
from laconic.program import Program, read
from laconic.program.groups import Found, Group, Slot
from laconic.program.layers import Layer, layers
from laconic.prune import importance
from laconic.prune.evidence import (
    gradients,
    input_energies,
    input_moments,
    output_sensitivity,
    parameters,
    readers,
    rows,
    scale_slots,
    weight_slots,
)

Importance: TypeAlias = Literal["obs", "fisher", "taylor", "activation", "l1", "l2", "geometric-median", "batch-norm-scale", "random"]
"""The criteria that channels are ranked by."""


class Ranking(Protocol):
    """What taking each channel of a group costs now."""

    @property
    def in_loss(self) -> bool:
        """Whether costs estimate a loss, so that they may be weighed against what a channel saves; else they only rank."""

    def costs(self, group: Group) -> Tensor:
        """Return (channels,) costs; of channels that are gone, anything."""

    def take(self, group: Group, channels: Sequence[int]) -> set[str]:
        """Take channels away; returns the names of the groups whose costs have changed."""


@dataclass(frozen=True)
class Fixed:
    """Scores that do not depend on what else is gone."""

    scores: dict[str, Tensor]  # by group name, (channels,)
    in_loss: bool

    def costs(self, group: Group) -> Tensor:
        """Return the scores."""
        return self.scores[group.name]

    def take(self, group: Group, channels: Sequence[int]) -> set[str]:
        """Change nothing."""
        return set()


@dataclass(frozen=True)
class Compensated:
    """Costs after the layers that read a channel have adjusted their other weights to its loss as well as they can.

    Source: see `numeric.elimination`; the error of each output is weighted by the Fisher information of it, so that costs of different
    layers are of one unit, the loss, as in C. Wang, R. Grosse, S. Fidler, G. Zhang, "EigenDamage: Structured Pruning in the
    Kronecker-Factored Eigenbasis", ICML 2019, section 3, with a diagonal factor for the outputs.
    """

    reading: dict[str, list[tuple[Elimination, Tensor]]]  # by group: the layers that read it, and the inputs (channels, k) of each channel
    writing: dict[str, list[tuple[Elimination, Tensor]]]  # by group: the layers that make it, and the output (channels, k) of each channel
    unread: dict[str, Tensor]  # Fisher scores of groups that no linear layer or plain convolution reads (query and key channels, say)
    in_loss: bool = True
    known: dict[tuple[int, str], Tensor] = field(default_factory=dict)  # costs of each group in each layer, until the layer changes

    def costs(self, group: Group) -> Tensor:
        """Return the summed costs of the layers that read the channels."""
        if group.name in self.unread:
            return self.unread[group.name].double()
        for layer, inputs in self.reading[group.name]:
            if (id(layer), group.name) not in self.known:
                self.known[id(layer), group.name] = layer.costs(inputs)
        return torch.stack([self.known[id(layer), group.name] for layer, _ in self.reading[group.name]]).sum(0)

    def take(self, group: Group, channels: Sequence[int]) -> set[str]:
        """Adjust the layers that read them, and forget their outputs in those that make them."""
        for layer, inputs in self.reading[group.name]:
            layer.take(inputs[channels].flatten())
        for layer, outputs in self.writing[group.name]:
            layer.drop(outputs[channels].flatten())
        changed = {id(layer) for layer, _ in (*self.reading[group.name], *self.writing[group.name])}
        for key in [key for key in self.known if key[0] in changed]:
            del self.known[key]
        return {name for name, reading in self.reading.items() if any(id(layer) in changed for layer, _ in reading)}


def ranking(name: Importance, found: Found, groups: Sequence[Group], context: Context) -> Ranking:
    """Rank the channels of groups by a criterion.

    Norms and scales are divided by their mean over the group, so that groups can be compared (as in G. Fang et al., "DepGraph",
    CVPR 2023, eq. 6); what estimates a loss is compared as it is.

    Raises:
        NotApplicableError: the criterion says nothing about a group (no batch norm, say).
    """
    program = found.walk.program
    if name == "obs":
        return compensated(found, groups, context)
    if name in ("taylor", "fisher"):
        return Fixed(_by_gradients(name, program, groups, context), True)
    if name == "activation":
        return Fixed(_energies(found, groups, context), False)
    return Fixed({group.name: _relative(_OF_WEIGHTS[name](program, group, context)) for group in groups}, False)


def compensated(found: Found, groups: Sequence[Group], context: Context) -> Compensated:
    """Rank by the loss that is left when the reading layers have adjusted."""
    program = found.walk.program
    involved = {slot.tensor for group in groups for slot in group.slots}
    own = [layer for layer in layers(program) if layer.weight in involved and layer.inputs <= LARGEST]
    sensitivity, moments = output_sensitivity(program, context, own), input_moments(program, context, own)
    states = {layer.weight: _state(program, layer, moments.pop(layer.node.name), sensitivity[layer.node.name]) for layer in own}
    by_weight = {layer.weight: layer for layer in own}
    reading = {group.name: [(states[s.tensor], _inputs(by_weight[s.tensor], s, group)) for s in _on(group, 1, states)] for group in groups}
    writing = {group.name: [(states[s.tensor], _positions(s, group)) for s in _on(group, 0, states)] for group in groups}
    unread = [group for group in groups if not reading[group.name]]
    return Compensated(reading, writing, _by_gradients("fisher", program, unread, context) if unread else {})


def _state(program: Program, layer: Layer, moments: Moments, sensitivity: Tensor) -> Elimination:
    return elimination(read(program, layer.weight).flatten(1).cpu(), moments.shrunk, sensitivity)


def _on(group: Group, axis: int, states: dict[str, Elimination]) -> list[Slot]:
    return [slot for slot in group.slots if slot.axis == axis and slot.tensor in states]


def _positions(slot: Slot, group: Group) -> Tensor:
    """Return the positions of each channel along the slot's axis: (channels, k)."""
    return torch.from_numpy(slot.positions(group.channels))


def _inputs(layer: Layer, slot: Slot, group: Group) -> Tensor:
    """Return the columns of the flattened weight that read each channel: (channels, k)."""
    kernel = layer.inputs // layer.shape[1]
    return (_positions(slot, group)[:, :, None] * kernel + torch.arange(kernel)).flatten(1)


def _by_gradients(name: str, program: Program, groups: Sequence[Group], context: Context, batch: int = 8) -> dict[str, Tensor]:
    scores = {group.name: torch.zeros(group.channels) for group in groups}
    batches, known = 0, set(parameters(program))
    slots = {group.name: [slot for slot in group.slots if slot.tensor in known] for group in groups}
    _demand(name, "parameters", groups, slots)
    for examples, gradient in gradients(program, context, batch):
        for group in groups:
            weights, slopes = (rows(group, of, slots[group.name]) for of in (lambda each: read(program, each), gradient.__getitem__))
            one = importance.taylor(weights, slopes) if name == "taylor" else importance.fisher(weights, slopes.square() * examples)
            scores[group.name] += one
        batches += 1
    return {each: score / batches for each, score in scores.items()}


def _energies(found: Found, groups: Sequence[Group], context: Context) -> dict[str, Tensor]:
    program = found.walk.program
    reading = {group.name: readers(found, group) for group in groups}
    _demand("activation", "a linear layer or plain convolution that reads it", groups, reading)
    unique = {layer.node.name: layer for pairs in reading.values() for layer, _ in pairs}
    energies = input_energies(program, context, list(unique.values()))
    scores = {}
    for group in groups:
        scores[group.name] = torch.zeros(group.channels)
        for layer, slot in reading[group.name]:
            energy = {slot.tensor: energies[layer.node.name].reshape(layer.shape[1:]).expand(layer.shape)}
            weights = rows(group, lambda name: read(program, name), [slot])
            scores[group.name] += importance.output_energy(rows(group, energy.__getitem__, [slot]), weights)
    return {name: _relative(score) for name, score in scores.items()}


def _weights(program: Program, group: Group) -> Tensor:
    return rows(group, lambda name: read(program, name), weight_slots(program, group))


def _scales(program: Program, group: Group) -> Tensor:
    found = scale_slots(program, group)
    _demand("batch-norm-scale", "batch norm", [group], {group.name: found})
    return rows(group, lambda name: read(program, name), found)


_OF_WEIGHTS: dict[str, Callable[[Program, Group, Context], Tensor]] = {
    "l1": lambda program, group, _: importance.l1(_weights(program, group)),
    "l2": lambda program, group, _: importance.l2(_weights(program, group)),
    "geometric-median": lambda program, group, _: importance.geometric_median(_weights(program, group)),
    "batch-norm-scale": lambda program, group, _: importance.batch_norm_scale(_scales(program, group)),
    "random": lambda _, group, context: importance.random(group.channels, _generator(group, context)),
}


def _generator(group: Group, context: Context) -> torch.Generator:
    """Return a generator of the run's seed and the group's name, so that groups differ and runs do not."""
    offset = sum(position * byte for position, byte in enumerate(group.name.encode(), start=1))
    return torch.Generator().manual_seed(context.seed + 7919 * offset)


def _relative(scores: Tensor) -> Tensor:
    return scores / scores.mean().clamp_min(1e-12)


def _demand(name: str, what: str, groups: Iterable[Group], found: dict[str, list[Slot]] | dict[str, list[tuple[Layer, Slot]]]) -> None:
    lacking = [group.name for group in groups if not found[group.name]]
    if lacking:
        raise NotApplicableError(
            f"importance {name!r} needs {what} in every group; {', '.join(lacking[:4])} has none; exclude it, or choose another importance"
        )
