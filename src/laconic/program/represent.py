"""Tensors of a program in other forms: registering representations, finding them, baking them.

A mask or a quantizer is registered with `torch.nn.utils.parametrize` on the module that holds the weight, so the graph always reads
the dense view and any later step composes. The same quantizer stands on an edge of the graph for activations.
"""

from collections.abc import Collection, Iterator
from itertools import count, takewhile
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from laconic.program.forms import Half, Mask, Representation
from laconic.program.program import Program, holder, place, read
from laconic.program.scaled import Codebook, Uniform
from laconic.program.shared import Shared

_EDGES = "_edges"  # where representations of activations are held

REPRESENTATIONS: dict[str, type[Representation]] = {form.__name__: form for form in (Mask, Uniform, Codebook, Half, Shared)}
"""By the name under which a saved program finds them again."""


def represent(program: Program, name: str, representation: Representation) -> None:
    """Keep the tensor called `name` in the given form from now on; forms registered earlier act first."""
    if "." not in name:
        name = _give_holder(program, name)
    module, attribute = holder(program, name)
    training = module.training
    parametrize.register_parametrization(module, attribute, representation)
    module.train(training)


def _give_holder(program: Program, name: str) -> str:
    """Move a tensor of the root into a module of its own, for a program cannot be parametrized; the old name stays as an alias."""
    moved = f"root.{name}"
    value = program._parameters[name]
    assert value is not None
    place(program, moved, value)
    program.get_submodule("root")._parameters[name] = value
    for node in program.graph.nodes:
        if node.op == "get_attr" and node.target == name:
            node.target = moved
    program.aliases[name] = moved
    program.recompile()
    return moved


def represent_edge(program: Program, node: fx.Node, representation: Representation, readers: Collection[fx.Node] | None = None) -> fx.Node:
    """Put a representation behind `node`: `readers`, or else all that read it, read the represented value. Returns the new node."""
    if _EDGES not in program._modules:
        program.add_module(_EDGES, nn.Module())
    home = program.get_submodule(_EDGES)
    name = next(name for i in count() if (name := f"{node.name}_{i}" if i else node.name) not in home._modules)
    home.add_module(name, representation)
    return _insert_edge(program, node, f"{_EDGES}.{name}", readers)


def _insert_edge(program: Program, node: fx.Node, target: str, readers: Collection[fx.Node] | None = None) -> fx.Node:
    with program.graph.inserting_after(node):
        edge = program.graph.call_module(target, (node,))
    edge.meta = dict(node.meta)
    node.replace_all_uses_with(edge, delete_user_cb=lambda user: user is not edge and (readers is None or user in readers))
    return edge


def share_edge(program: Program, node: fx.Node, edge: fx.Node) -> fx.Node:
    """Put the representation of an existing edge behind `node` too: both share one grid. Returns the new node."""
    return _insert_edge(program, node, str(edge.target))


def release_edge(program: Program, target: str) -> None:
    """Take the representation of activations called `target` off all edges that it stands on."""
    for edge in [node for node in program.graph.nodes if node.op == "call_module" and node.target == target]:
        edge.replace_all_uses_with(edge.all_input_nodes[0])
        program.graph.erase_node(edge)
    program.delete_submodule(target)
    program.recompile()


def representations(program: nn.Module, name: str) -> list[Representation]:
    """Return the forms in which the tensor called `name` is kept, in order; empty for a plain tensor."""
    module, attribute = holder(program, graph_name(program, name))
    if not parametrize.is_parametrized(module, attribute):
        return []
    chain: Any = module.parametrizations
    return list(chain[attribute])


def stored_tensor(program: nn.Module, name: str) -> Tensor:
    """Return the tensor called `name` as it is stored, before its representations."""
    module, attribute = holder(program, graph_name(program, name))
    if not parametrize.is_parametrized(module, attribute):
        return read(program, name)
    lists: Any = module.parametrizations
    stored: Tensor = lists[attribute].original
    return stored


def seen_by(program: nn.Module, name: str, form: Representation) -> Tensor:
    """Return the tensor called `name` as one of its representations gets it: stored, and through those before it."""
    value = stored_tensor(program, name)
    for each in takewhile(lambda other: other is not form, representations(program, name)):
        value = each(value)
    return value


def replace_form(program: Program, name: str, old: Representation, new: Representation) -> None:
    """Put another representation of the tensor called `name` in the place of one that it has."""
    module, attribute = holder(program, graph_name(program, name))
    lists: Any = module.parametrizations
    lists[attribute][list(lists[attribute]).index(old)] = new.train(module.training)


def graph_name(program: nn.Module, name: str) -> str:
    """Return the name under which the graph reads the tensor called `name`, which may be a tied one's other name."""
    return program.aliases.get(name, name) if isinstance(program, Program) else name


def represented(program: Program) -> Iterator[tuple[str, list[Representation]]]:
    """Yield the name and forms of every represented tensor that the graph reads."""
    for name in tensor_names(program):
        forms = representations(program, name)
        if forms:
            yield name, forms


def edges(program: Program) -> dict[fx.Node, Representation]:
    """Return the representations that stand on edges, by their node."""
    found = {node: program.get_submodule(str(node.target)) for node in program.graph.nodes if node.op == "call_module"}
    return {node: module for node, module in found.items() if isinstance(module, Representation)}


def tensor_names(program: Program) -> list[str]:
    """Return the names of all tensors that the graph reads, in graph order, each once."""
    return list(dict.fromkeys(str(node.target) for node in program.graph.nodes if node.op == "get_attr"))


def bake(program: Program, name: str) -> None:
    """Make the dense view of a represented tensor permanent; it is a plain parameter again."""
    module, attribute = holder(program, name)
    parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)
