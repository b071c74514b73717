"""Where the time of an ONNX file goes, layer by layer, as ONNX Runtime's own profile tells it."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

_MULTIPLY = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulNBits")


def mark(model: "onnx.ModelProto") -> list[str]:
    """Name every node and inner tensor after the layer that it belongs to, in place; returns the layers' names by their mark's number.

    A layer is a node that multiplies by a constant, named like that tensor without ".weight"; what follows it, up to the next layer, is
    counted to it. The runtime's fusions name their kernels after a node or after its output, so both carry the mark.
    """
    graph = model.graph
    fixed = {value.name for part in (graph.input, graph.output, graph.initializer) for value in part}
    source = {tensor.name: tensor.name for tensor in graph.initializer}  # of each constant: the tensor that it is made of
    layers, owner, renamed = list[str](), dict[str, int](), dict[str, str]()
    for number, node in enumerate(graph.node):
        given = [name for name in node.input if name]
        if all(name in source for name in given):
            source.update(dict.fromkeys(node.output, source[given[0]] if given else node.output[0]))
            continue
        if node.op_type in _MULTIPLY and node.input[1] in source:
            layers.append(source[node.input[1]].removesuffix("_codes").removesuffix("_product").removesuffix(".weight"))
            owner.update(dict.fromkeys(node.output, len(layers) - 1))
        else:
            latest = max((owner[name] for name in given if name in owner), default=-1)
            owner.update(dict.fromkeys(node.output, latest))
        node.name = f"layer{owner[node.output[0]]}|{number}"
        renamed.update({name: f"{node.name}|{name}" for name in node.output if name not in fixed})
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    return layers


def seconds(profile: Path, layers: list[str]) -> dict[str, float]:
    """Return the seconds of one call that a marked network spent in each layer; "" holds what belongs to none.

    The mean of the middle half of all calls: kernels are told in whole microseconds, and a few calls are disturbed.

    Args:
        profile: the file that the runtime wrote.
        layers: as `mark` returned them.
    """
    calls = defaultdict[str, list[float]](list)
    for event in _kernels(profile):
        calls[event["name"]].append(1e-6 * event["dur"])
    return by_layer(calls, layers)


def by_layer(calls: Mapping[str, list[float]], layers: list[str]) -> dict[str, float]:
    """Return the seconds of one call that a marked network spent in each layer, from the seconds of every call of every kernel."""
    spent = dict.fromkeys([*layers, ""], 0.0)
    for kernel, durations in calls.items():
        ordered = np.sort(durations)
        quarter = len(ordered) // 4
        spent[layer_of(kernel, layers)] += float(ordered[quarter : len(ordered) - quarter].mean())
    return spent


def layer_of(kernel: str, layers: list[str]) -> str:
    """Return the layer that a kernel of a marked network belongs to, by the kernel's name; "": none."""
    marked = re.search(r"layer(\d+)\|", kernel)
    return layers[int(marked[1])] if marked else ""


def kernels(profile: Path, layers: list[str]) -> dict[str, str]:
    """Return the name of the kernel that multiplies in each layer of a marked network, by the file that the runtime wrote."""
    ran = [(event["name"], event["args"]["op_name"]) for event in _kernels(profile)]
    return multiplying([(name, kind) for name, kind in ran if any(word in kind for word in _MULTIPLY)], layers)


def multiplying(ran: Iterable[tuple[str, str]], layers: list[str]) -> dict[str, str]:
    """Return the first of the kernels, (name, kind) in the order of their execution, in each layer; later ones multiply activations."""
    found = dict[str, str]()
    for name, kind in ran:
        found.setdefault(layer_of(name, layers), kind)
    return {layer: kind for layer, kind in found.items() if layer}


def _kernels(profile: Path) -> list[dict[str, Any]]:
    events = json.loads(profile.read_text(encoding="utf-8"))
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
