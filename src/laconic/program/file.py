"""A program as one file: its graph as JSON and its tensors, in the safetensors format, with checksums; no pickle, no source needed.

The file is an ordinary safetensors file. Its metadata has one entry, `laconic`: a JSON object with `format`, `program`
(the graph) and `sha256` (of the graph and of every tensor), so anything flipped, cut or replaced is found before it is used.
Represented tensors are written either as they are stored, so that training goes on to the same bits, or packed, for their size.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, fx, nn

from laconic.errors import LaconicError
from laconic.files import write_bytes
from laconic.program.encode import NAMED, decode_graph, encode_graph
from laconic.program.forms import Representation
from laconic.program.pack import Packed, packed, unpacked
from laconic.program.program import Input, Program, holder, own_tensors, place, read
from laconic.program.represent import REPRESENTATIONS, edges, represent, represented, stored_tensor
from laconic.program.shapes import infer_shapes

FORMAT = "2"
_READ = ("1", FORMAT)  # the first has no packed tensors


def save(program: Program, path: Path, pack: bool = False) -> None:
    """Write a program to `path`, whole or not at all.

    Args:
        program: what to write.
        path: where.
        pack: write represented tensors in their deployable form (codes at their true width, no masked entries), at the bytes that
            `packed_bytes` counts. The program computes the same, to the bit; what training knew of a weight beyond its code is not kept.

    Raises:
        LaconicError: the place cannot be written, or the graph holds a value that the format does not know.
    """
    described, tensors = taken_apart(program, pack)
    text = json.dumps(described, separators=(",", ":"))
    header = json.dumps({"format": FORMAT, "sha256": _digest(text, tensors), "program": text})
    write_bytes(path, serialize(tensors, {"laconic": header}))


def taken_apart(program: Program, pack: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a program as a description that JSON can hold and tensors by key; see `save`.

    Raises:
        LaconicError: the graph holds a value that the format does not know.
    """
    packs = {name: packed(program, name) for name, _ in represented(program)} if pack else {}
    return _describe(program, packs), _tensors(program, packs)


def load(path: Path) -> Program:
    """Read a program that `save` wrote.

    Raises:
        LaconicError: no such file, not a program, truncated, or changed since it was written.
    """
    text, tensors = _read(path)
    return put_together(json.loads(text), tensors)


def put_together(described: dict[str, Any], tensors: dict[str, Tensor]) -> Program:
    """Return the program that `taken_apart` took apart; it owns `tensors`.

    Raises:
        LaconicError: this version of torch lacks an operation.
    """
    root = nn.Module()
    packs = {entry["name"]: _packed(entry["packed"], tensors) for entry in described["tensors"] if "packed" in entry}
    for entry in described["tensors"]:
        value = unpacked(packs[entry["name"]]) if entry["name"] in packs else tensors[entry["key"]]
        place(root, entry["name"], value, entry["parameter"], entry["persistent"])
        if entry["parameter"]:
            read(root, entry["name"]).requires_grad_(entry["trainable"])
    aliases = described["aliases"]
    for alias, name in aliases.items():
        place(root, alias, torch.empty(0))
        module, attribute = holder(root, alias)
        source, original = holder(root, name)
        module._parameters[attribute] = source._parameters[original]
    for entry in described["edges"]:
        _place_module(root, entry["name"], _representation(entry, tensors))
    inputs = tuple(Input(entry["name"], tuple(entry["shape"]), NAMED["dtype"][entry["dtype"]]) for entry in described["inputs"])
    program = Program(root, decode_graph(described["graph"]), inputs, aliases)
    for entry in described["representations"]:
        form = _representation(entry, tensors)
        state = form.state_dict()
        represent(program, entry["name"], form)
        form.load_state_dict(state)  # what is registered takes in what is stored, and gives entries their codes anew
    for name, each in packs.items():
        for form in each.forms():
            represent(program, name, form)
    return infer_shapes(program)


def _tensors(program: Program, packs: Mapping[str, Packed]) -> dict[str, Tensor]:
    """All tensors that are stored, each under its own key: originals for represented ones, and what their representations hold."""
    stored: dict[str, Tensor] = {}
    for i, entry in enumerate(_entries(program)):
        if entry["name"] in packs:
            stored |= {f"tensor.{i}.{key}": torch.from_numpy(array) for key, array in packs[entry["name"]].arrays.items()}
        else:
            stored[f"tensor.{i}"] = stored_tensor(program, entry["name"])
    for owner, forms in _owners(program, packs):
        for position, form in enumerate(forms):
            stored |= {f"{owner}.{position}.{key}": value for key, value in form.state_dict().items()}
    return {key: value.detach().cpu().contiguous().clone() for key, value in stored.items()}


def _owners(program: Program, packs: Mapping[str, Packed]) -> list[tuple[str, list[Representation]]]:
    weights = [(f"represent.{name}", forms) for name, forms in represented(program) if name not in packs]
    return weights + [(f"edge.{name}", [form]) for name, form in _edge_forms(program).items()]


def _edge_forms(program: Program) -> dict[str, Representation]:
    return {str(node.target): form for node, form in edges(program).items()}  # several nodes may share one


def _entries(program: Program) -> list[dict[str, Any]]:
    """Every stored tensor by the user's name, ties once."""
    plain = [name for name in own_tensors(program) if name not in program.aliases]
    names = dict.fromkeys([*plain, *(name for name, _ in represented(program))])
    return [{"name": name, **_kind(program, name)} for name in names]


def _kind(program: Program, name: str) -> dict[str, bool]:
    module, attribute = holder(program, name)
    value = stored_tensor(program, name)
    persistent = attribute not in module._non_persistent_buffers_set
    return {"parameter": isinstance(value, nn.Parameter), "trainable": value.requires_grad, "persistent": persistent}


def _describe(program: Program, packs: Mapping[str, Packed]) -> dict[str, Any]:
    return {
        "inputs": [{"name": entry.name, "shape": entry.shape, "dtype": str(entry.dtype)} for entry in program.inputs],
        "aliases": program.aliases,
        "tensors": [{**entry, **_keys(f"tensor.{i}", packs.get(entry["name"]))} for i, entry in enumerate(_entries(program))],
        "representations": [
            _described(name, f"represent.{name}.{i}", form)
            for name, forms in represented(program)
            if name not in packs
            for i, form in enumerate(forms)
        ],
        "edges": [_described(name, f"edge.{name}.0", form) for name, form in _edge_forms(program).items()],
        "graph": encode_graph(_inference_graph(program)),
    }


def _keys(prefix: str, pack: Packed | None) -> dict[str, Any]:
    """Say under which key a tensor is found; of a packed one, under which keys, and how it is read."""
    if pack is None:
        return {"key": prefix}
    how = {"shape": pack.shape, "dtype": pack.dtype, "form": pack.form, "settings": pack.settings}
    return {"packed": {**how, "keys": {key: f"{prefix}.{key}" for key in pack.arrays}}}


def _packed(entry: dict[str, Any], tensors: dict[str, Tensor]) -> Packed:
    arrays = {key: tensors[name].numpy() for key, name in entry["keys"].items()}
    return Packed(tuple(entry["shape"]), entry["dtype"], arrays, entry["form"], entry["settings"])


def _inference_graph(program: Program) -> fx.Graph:
    training = program.training
    program.eval()
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    program.train(training)
    return graph


def _described(name: str, prefix: str, form: Representation) -> dict[str, Any]:
    keys = {key: f"{prefix}.{key}" for key in form.state_dict()}
    return {"name": name, "form": type(form).__name__, "settings": form.settings(), "keys": keys}


def _representation(entry: dict[str, Any], tensors: dict[str, Tensor]) -> Representation:
    return REPRESENTATIONS[entry["form"]](**{key: tensors[name] for key, name in entry["keys"].items()}, **entry["settings"])


def _place_module(root: nn.Module, name: str, module: nn.Module) -> None:
    path, _, attribute = name.rpartition(".")
    if path not in dict(root.named_modules()):
        root.add_module(path, nn.Module())
    root.get_submodule(path).add_module(attribute, module)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.ndim else tensor.reshape(1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    if not path.is_file():
        raise LaconicError(f"there is no program at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LaconicError(f"{path} is damaged or no program: {error}; write it again") from None
    if "laconic" not in metadata:
        raise LaconicError(
            f"{path} holds tensors but no program: give it as --weights beside a --model, or write it again if it is damaged"
        )
    try:
        header = json.loads(metadata["laconic"])
        written, digest, text = header["format"], header["sha256"], header["program"]
    except (ValueError, KeyError, TypeError):
        raise LaconicError(f"{path} is damaged: its header is not whole; write it again") from None
    if written not in _READ:
        raise LaconicError(f"{path} has format {written}, this version of laconic reads format {' and '.join(_READ)}")
    if _digest(text, tensors) != digest:
        raise LaconicError(f"{path} is damaged: its checksum differs from the one it was written with; write it again")
    # Cloned, for in the file they lie at any address, and kernels round differently where memory is not aligned
    return text, {key: tensor.clone() for key, tensor in tensors.items()}
