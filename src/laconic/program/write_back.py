"""Writing a program back into a module of the user's own class, where that class's Python allows it."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from laconic.errors import LaconicError
from laconic.program.capture import as_inference
from laconic.program.program import Program, clone, example_of, holder, place, read


def write_back(program: Program, module: nn.Module) -> nn.Module:
    """Write a program's tensors into a module of the user's own class, resizing where shapes changed; returns the module.

    A submodule all of whose tensors are gone from the program (a folded batch norm) becomes `nn.Identity`.

    Raises:
        LaconicError: the module's own Python does not compute what the program computes any more; save the program instead. The module
            is as it was then.
    """
    _check_same(program, _written(program, copy.deepcopy(module)))
    return _written(program, module)


def _written(program: Program, module: nn.Module) -> nn.Module:
    names = [*dict(module.named_parameters(remove_duplicate=False)), *dict(module.named_buffers(remove_duplicate=False))]
    held = {name for name in names if _holds(program, program.aliases.get(name, name))}
    for path, child in list(module.named_modules()):
        own = [name for name in names if name.startswith(f"{path}.")]
        if path and own and not held.intersection(own) and not any(True for _ in child.children()):
            owner, attribute = holder(module, path)
            owner._modules[attribute] = nn.Identity()
    for name in _names(program, module, held):
        value = read(program, program.aliases.get(name, name))
        _put(module, name, value)
    _retie(module, program.aliases)
    return module


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor where it was: as a parameter, frozen or not, or as a buffer, persistent or not."""
    owner, attribute = holder(module, name)
    before = owner._parameters.get(attribute)
    place(module, name, value.clone(), attribute not in owner._buffers, attribute not in owner._non_persistent_buffers_set)
    if before is not None and not before.requires_grad:
        getattr(owner, attribute).requires_grad_(False)


def _names(program: Program, module: nn.Module, held: set[str]) -> list[str]:
    added = [node.target for node in program.graph.nodes if node.op == "get_attr" and node.target not in held]
    return sorted(held) + [name for name in added if name.rpartition(".")[0] in dict(module.named_modules())]


def _holds(program: nn.Module, name: str) -> bool:
    try:
        read(program, name)
    except AttributeError:
        return False
    return True


def _retie(module: nn.Module, aliases: Mapping[str, str]) -> None:
    for alias, name in aliases.items():
        if _holds(module, name):
            owner, attribute = holder(module, alias)
            setattr(owner, attribute, read(module, name))


def _check_same(program: Program, module: nn.Module) -> None:
    example = example_of(program)
    try:
        with torch.no_grad(), as_inference(module):
            theirs, ours = module(*example), clone(program).eval()(*example)
        same = all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(_tensors(theirs), _tensors(ours), strict=True))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise LaconicError(f"{type(module).__name__} cannot hold the compressed tensors ({error}); save the program instead") from error
    if not same:
        raise LaconicError(f"{type(module).__name__} computes something else with the compressed tensors; save the program instead")


def _tensors(value: Any) -> list[Tensor]:
    leaves: list[Any] = torch.utils._pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
