"""A graph as plain data that JSON can hold, and back: operations by name, arguments by value, no code."""

import operator
from typing import Any

import torch
from torch import fx

from laconic.errors import LaconicError

_KEPT = ("source", "module", "fixed")  # of a node's metadata

_SYMBOLIC = (torch.sym_float, torch.sym_int, torch.sym_max, torch.sym_min, torch.sym_not)
_ARITHMETIC = tuple(
    getattr(operator, name)
    for name in [
        "getitem",
        "add",
        "sub",
        "mul",
        "floordiv",
        "truediv",
        "mod",
        "neg",
        "pow",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "and_",
        "or_",
        "not_",
    ]
)
_FUNCTIONS: dict[str, Any] = {  # the only Python functions that a program may call; everything else is an operation of torch
    f"{function.__module__}.{function.__name__}": function for function in (*_ARITHMETIC, *_SYMBOLIC)
}
NAMED: dict[str, dict[str, Any]] = {  # values of torch that are written by name
    "dtype": {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)},
    "layout": {str(value): value for value in (torch.strided, torch.sparse_coo)},
    "memory_format": {str(v): v for v in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)},
}


def encode_graph(graph: fx.Graph) -> list[dict[str, Any]]:
    """Return a graph as a list of nodes in order.

    Raises:
        LaconicError: the graph calls a function that is no operation of torch, or holds an argument of an unknown type.
    """
    return [_encode_node(node) for node in graph.nodes]


def _encode_node(node: fx.Node) -> dict[str, Any]:
    target = str(node.target) if node.op != "call_function" else _function_name(node)
    entry = {"op": node.op, "name": node.name, "target": target, "args": _encode(node.args), "kwargs": _encode(node.kwargs)}
    return entry | {key: node.meta[key] for key in _KEPT if key in node.meta}


def _function_name(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return f"{node.target.namespace}::{node.target._opname}.{node.target._overloadname}"
    name = f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', node.target)}"
    if name not in _FUNCTIONS:
        raise LaconicError(f"{name} at {node.meta.get('source', node.name)} cannot be saved: a program holds operations of torch only")
    return name


def _function(name: str) -> Any:
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    namespace, _, rest = name.partition("::")
    operation, _, overload = rest.rpartition(".")
    try:
        return getattr(getattr(getattr(torch.ops, namespace), operation), overload)
    except AttributeError:
        raise LaconicError(f"this version of torch ({torch.__version__}) has no operation {name}, which the program calls") from None


def _encode(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_encode(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, float):
        return {"float": value.hex()}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return _encode_named(value)


def _encode_named(value: Any) -> dict[str, str]:
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, table in NAMED.items():
        if str(value) in table and table[str(value)] is value:
            return {kind: str(value)}
    raise LaconicError(f"a program with the argument {value!r} of type {type(value).__name__} cannot be saved")


def _decode(value: Any, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    match kind:
        case "node":
            return nodes[content]
        case "dict":
            return {key: _decode(item, nodes) for key, item in content.items()}
        case "slice":
            return slice(*(_decode(part, nodes) for part in content))
        case "float":
            return float.fromhex(content)
        case "device":
            return torch.device(content)
        case _:
            return NAMED[kind][content]


def decode_graph(described: list[dict[str, Any]]) -> fx.Graph:
    """Return the graph that `encode_graph` described.

    Raises:
        LaconicError: this version of torch lacks an operation.
    """
    graph, nodes = fx.Graph(), dict[str, fx.Node]()
    for entry in described:
        target = _function(entry["target"]) if entry["op"] == "call_function" else entry["target"]
        arguments = tuple(_decode(entry["args"], nodes))
        if entry["op"] == "output" and isinstance(arguments[0], list):
            arguments = (tuple(arguments[0]),)
        node = graph.create_node(entry["op"], target, arguments, _decode(entry["kwargs"], nodes), entry["name"])
        node.meta = {key: entry[key] for key in _KEPT if key in entry}
        nodes[entry["name"]] = node
    return graph
