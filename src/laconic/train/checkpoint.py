"""Checkpoints: everything that an interrupted training needs to go on as if it had not been, in one safetensors file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from laconic.data.dataset import Split
from laconic.errors import LaconicError
from laconic.files import write_bytes
from laconic.train.settings import Epoch

_SECTIONS = ("model", "averages", "best", "optimizer", "random")


@dataclass(frozen=True)
class Cut:
    """Channels that were removed while training, or another change after which the scores before do not count."""

    epochs: int  # that were over
    keep: dict[str, list[int]]  # by the name of the group, as the program was then; empty where no channel went


@dataclass(frozen=True)
class Checkpoint:
    """The state of training between two batches."""

    done: int  # batches, of all epochs
    loss: float  # sum over the batches of the epoch begun
    seconds: float  # spent on the epoch begun
    history: tuple[Epoch, ...]
    cuts: tuple[Cut, ...]
    model: dict[str, Tensor]  # parameters and buffers by name
    averages: dict[str, Tensor]  # of the trained parameters; empty without an average
    best: dict[str, Tensor]  # as `model`, of the best epoch; empty where it is not kept
    optimizer: dict[str, Tensor]  # "<parameter index>.<name>"
    random: dict[str, Tensor]  # states of the generators, uint8


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, those outside the state dict too, tied ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def copies(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return independent, contiguous copies."""
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in named.items()}


@torch.no_grad()
def put(named: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    """Overwrite each tensor with the saved one of its name."""
    for name, tensor in named.items():
        tensor.copy_(saved[name])


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Write `checkpoint` to `path`, whole or not at all."""
    named = {f"{section}/{name}": tensor for section in _SECTIONS for name, tensor in getattr(checkpoint, section).items()}
    header = {
        "done": checkpoint.done,
        "loss": checkpoint.loss,
        "seconds": checkpoint.seconds,
        "history": [asdict(epoch) for epoch in checkpoint.history],
        "cuts": [asdict(cut) for cut in checkpoint.cuts],
    }
    write_bytes(path, save(copies(named), metadata={"training": json.dumps(header)}))


def read(path: Path) -> Checkpoint:
    """Read what `write` wrote.

    Raises:
        LaconicError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["training"])
            named = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors and json raise many kinds
        raise LaconicError(f"the checkpoint {path} is damaged ({error}); delete it to train from the start") from error
    history = tuple(Epoch(**epoch) for epoch in header["history"])
    cuts = tuple(Cut(**cut) for cut in header.get("cuts", ()))
    sections = [_section(named, f"{section}/") for section in _SECTIONS]
    return Checkpoint(header["done"], header["loss"], header["seconds"], history, cuts, *sections)


def key(model: nn.Module, splits: list[Split | None], settings: Any) -> str:
    """Return a name made from the model's weights, the labels and the settings: other work never finds this work's checkpoint.

    Inputs go in by their shape only, for there may be many of them.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for split in splits:
        digest.update(b"none" if split is None else f"{split.inputs.shape} {split.mean} {split.std}".encode() + split.labels.tobytes())
    for name, tensor in tensors(model).items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {tensor.requires_grad}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _section(named: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
