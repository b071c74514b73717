"""Networks in `.lac` files: with their own graph, or under the name of an architecture of the zoo, whose graph need not be in the file.

A name is looked up among the built-in networks and nothing else: no file makes anything be imported, downloaded or executed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laconic.errors import LaconicError, unknown
from laconic.files import write_bytes
from laconic.pack import reader
from laconic.pack.file import pack_exactly
from laconic.pack.programs import Arrays, program_of
from laconic.pack.tensors import read_lac
from laconic.pack.writer import Array
from laconic.program import Program, capture, dense_state, example_of, read
from laconic.program.cut import cut
from laconic.program.groups import Group, find
from laconic.program.represent import edges
from laconic.zoo import MODELS, example, load

NETWORK = "network"  # in the header: the architecture
NAMED = "named.lac"  # in a delivered folder: the network under its architecture's name
_ZOO = "zoo:"
_NEAR = 1e-5  # of the outputs' size: the named network may compute in another order
_SHOWN = 3
_UNREAD = "num_batches_tracked"  # of batch norms: it changes nothing, and is left out


def read_program(path: Path, limit: int = reader.LIMIT) -> Program:
    """Read the network of a `.lac` file.

    Raises:
        LaconicError: there is no such file, it is damaged, of a newer version or beyond `limit`, or it holds tensors alone.
    """
    header, arrays = read_lac(path, limit)
    try:
        return program_in(header, arrays)
    except LaconicError as error:
        raise LaconicError(f"{path}: {error}") from None


def program_in(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> Program:
    """Return the network that a file's header and arrays are of.

    Raises:
        LaconicError: they are of no network, or do not fit the one that the header names.
    """
    if NETWORK not in header:
        return program_of(arrays)
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    network = narrowed(named(header[NETWORK]), shapes)
    check_fit(network, shapes, header[NETWORK])
    for name, array in arrays.items():
        held = read(network, name)
        tensor = torch.from_numpy(np.array(array)).to(held.dtype)
        with torch.no_grad():
            held.copy_(tensor)
    return network


def named_arrays(program: Program, network: str) -> Arrays:
    """Return the tensors of a program as those of an architecture of the zoo, after a check that this computes what the program does.

    Raises:
        LaconicError: there is no such architecture, the tensors do not fit, or it would compute anything else.
    """
    state = {name: tensor.numpy() for name, tensor in dense_state(program).items() if not name.endswith(_UNREAD)}
    if edges(program):
        raise LaconicError("activations are quantized, which no named network is: pack it without --network, so that its graph is kept")
    shapes = {name: tuple(array.shape) for name, array in state.items()}
    check_fit(narrowed(named(network), shapes), shapes, network)
    inputs = example_of(program)
    with torch.no_grad():
        try:
            wanted, found = program(*inputs), program_in({NETWORK: network}, state)(*inputs)
        except RuntimeError as error:
            raise LaconicError(f"{network} does not run on the program's inputs: {error}") from None
    if wanted.shape != found.shape or (wanted - found).norm() > _NEAR * wanted.norm():
        raise LaconicError(f"{network} with these tensors computes something else than the program: pack it without --network")
    parameters = dict(program.named_parameters())
    weights = frozenset(name for name, array in state.items() if array.ndim > 1 and array.dtype.kind == "f")
    return Arrays(state, weights, frozenset(name for name in weights if name not in parameters and name in dict(program.named_buffers())))


def same_weights(one: Program, other: Program) -> bool:
    """Say whether two programs have the same tensors, as they are computed with, to the bit."""
    first, second = ({name: tensor for name, tensor in dense_state(each).items() if not name.endswith(_UNREAD)} for each in (one, other))
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def write_named(program: Program, network: str, path: Path) -> int | None:
    """Write a program to `path` to the bit, with the name of its architecture in place of its graph; returns the bytes.

    Nothing is written, and None returned, where the program is not one of that architecture any more.
    """
    try:
        arrays = named_arrays(program, network)
    except LaconicError:
        return None
    packed = pack_exactly(arrays.arrays, {NETWORK: network}, arrays.weights)
    write_bytes(path, packed.data)
    return len(packed.data)


def named(network: str) -> Program:
    """Return an architecture of the zoo as a program, with random weights.

    Raises:
        LaconicError: there is none of that name.
    """
    name = str(network).removeprefix(_ZOO)
    if not isinstance(network, str) or not network.startswith(_ZOO) or name.partition("?")[0] not in MODELS:
        raise unknown("network", str(network), [f"{_ZOO}{known}" for known in MODELS])
    return of_zoo(network, None)


def narrowed(network: Program, shapes: Mapping[str, tuple[int, ...]]) -> Program:
    """Cut an architecture, in place, to as many channels as the tensors of a file have; which channels these once were does not matter.

    Returns:
        The network; its shapes may still be others, where no cut of channels leads to those of the file.
    """
    if any(tuple(tensor.shape) != shapes.get(name) for name, tensor in network.state_dict().items() if not name.endswith(_UNREAD)):
        found = find(network)
        cut(network, {group.name: range(left) for group in found.groups if (left := _left(group, shapes))}, found)
    return network


def _left(group: Group, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return how many channels of a group the tensors of a file have; 0 where they do not tell or have no fewer."""
    for slot in group.slots:
        shape = shapes.get(slot.tensor, ())
        size = shape[slot.axis] if slot.axis < len(shape) else 0
        left, rest = divmod(size * group.channels, len(slot.channel))
        if (slot.channel >= 0).all() and not rest and 0 < left < group.channels:
            return left
    return 0


def of_zoo(network: str, weights: Path | None) -> Program:
    """Return a built-in architecture as a program.

    Raises:
        LaconicError: there is none of that name, or the weights do not fit.
    """
    with torch.random.fork_rng():
        model = load(network, weights)
    return capture(model, example(network, model))


def check_fit(network: Program, shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Compare the tensors of a file with those of the architecture that it names.

    Raises:
        LaconicError: says which are missing, unknown or of another shape.
    """
    wanted = {key: tuple(tensor.shape) for key, tensor in dense_state(network).items()}
    wrong = [f"{key} is missing" for key in wanted if key not in shapes and not key.endswith(_UNREAD)]
    wrong += [f"{key} is unknown there" for key in shapes if key not in wanted]
    wrong += [f"{key} is {shapes[key]}, there {shape}" for key, shape in wanted.items() if shapes.get(key, shape) != shape]
    if wrong:
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise LaconicError(f"the tensors are not those of {name}: {'; '.join(wrong[:_SHOWN])}{more}")
