"""Networks of timm, by name: `timm:resnet18`. The package is optional."""

import difflib
import importlib
import importlib.util
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from laconic.errors import LaconicError
from laconic.imported import options, told

_SCHEMAS: list[Any] = []  # a library's operators are forgotten with it


def create(name: str, query: str) -> nn.Module:
    """Build a network of timm.

    Args:
        name: as `timm.create_model` takes it, with or without the tag of pretrained weights: "resnet18", "resnet18.a1_in1k".
        query: its options: `pretrained=true`, `num_classes=10`, `img_size=32`, ...; may be empty.

    Raises:
        LaconicError: timm is not installed, it has no such network, or it refuses an option.
    """
    timm = _imported(name)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise LaconicError(f"timm has no network {name!r}; {hint}timm.list_models() names them all")
    arguments = options(timm.create_model, query, f"timm:{name}")
    with told(f"the model timm:{name}", "timm"):
        model: nn.Module = timm.create_model(name, **arguments)
    return model


def mend_torchvision() -> None:
    """Let a torchvision that was built for another torch be imported, as timm and transformers do; its compiled operators stay absent.

    Its Python expects schemas that only its compiled part defines; where that part does not load, they are defined here. torchvision
    itself is not imported.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    with suppress(ImportError, OSError):  # as torchvision does
        for file in Path(found.origin).parent.glob("_C.*"):
            torch.ops.load_library(file)
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _SCHEMAS.append(library)


def _imported(name: str) -> ModuleType:
    if importlib.util.find_spec("timm") is None:
        raise LaconicError(f"the model timm:{name} needs the package timm: pip install timm")
    with told("importing timm", "timm"):
        mend_torchvision()
        return importlib.import_module("timm")
