"""Weights in llama2.c's first format (version 0): a header of seven whole numbers, then float32 tensors, each of all layers at once."""

from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from laconic.errors import LaconicError

_HEADER = 7  # int32: width, hidden, layers, heads, shared heads, vocabulary (below 0: an output layer of its own), positions


def read_llama2c(path: Path) -> dict[str, Tensor]:
    """Read the tensors, under the names of `zoo.llama.Llama`.

    Raises:
        LaconicError: the file is not whole, or its output layer is not the embedding.
    """
    content = path.read_bytes()
    header = np.frombuffer(content[: 4 * _HEADER], "<i4")
    if len(header) < _HEADER or min(header) <= 0 or len(content) % 4:
        raise LaconicError(
            f"{path} is not a file of llama2.c's version 0 whose output layer is the embedding; its header is {header.tolist()}"
        )
    shapes = _shapes(*map(int, header))
    numbers = torch.from_numpy(np.frombuffer(content, "<f4", offset=4 * _HEADER).copy())
    sizes = [prod(shape) for shape in shapes.values()]
    if len(numbers) != sum(sizes):
        raise LaconicError(f"{path} is not whole: its header tells of {sum(sizes):,} numbers, it has {len(numbers):,}")
    whole = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), numbers.split(sizes), strict=True)}
    return {name.format(layer): tensor for key, stack in whole.items() if key for name, layer, tensor in _of_layers(key, stack)}


def _shapes(
    width: int, hidden: int, layers: int, heads: int, shared_heads: int, vocabulary: int, positions: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes in the order of the file, by name; `{}` stands for the layer. Tables of rotations are read by nobody."""
    shared, block = width // heads * shared_heads, "blocks.{}."
    return {
        "tokens.weight": (vocabulary, width),
        f"{block}norm1.weight": (layers, width),
        f"{block}attention.query.weight": (layers, width, width),
        f"{block}attention.key.weight": (layers, shared, width),
        f"{block}attention.value.weight": (layers, shared, width),
        f"{block}attention.out.weight": (layers, width, width),
        f"{block}norm2.weight": (layers, width),
        f"{block}gate.weight": (layers, hidden, width),
        f"{block}down.weight": (layers, width, hidden),
        f"{block}up.weight": (layers, hidden, width),
        "norm.weight": (width,),
        "": (2, positions, width // heads // 2),
    }


def _of_layers(name: str, stack: Tensor) -> list[tuple[str, int, Tensor]]:
    return [(name, layer, tensor) for layer, tensor in enumerate(stack if "{}" in name else [stack])]
