"""A network as a program: one graph of ATen operations over the user's tensors under the user's names, trainable and editable."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from laconic.errors import LaconicError

aten = torch.ops.aten

# operation -> position of its training flag
_TRAINING_FLAG: dict[Any, int] = {
    aten.batch_norm.default: 5,
    aten.instance_norm.default: 5,
    aten.dropout.default: 2,
    aten.feature_dropout.default: 2,
    aten.alpha_dropout.default: 2,
    aten.feature_alpha_dropout.default: 2,
    aten.lstm.input: 6,
    aten.gru.input: 6,
    aten.rnn_tanh.input: 6,
    aten.rnn_relu.input: 6,
}


@dataclass(frozen=True)
class Input:
    """One input of a program. The first axis is the batch; its size is free."""

    name: str
    shape: tuple[int, ...]  # without the batch axis
    dtype: torch.dtype


class Program(fx.GraphModule):
    """A graph of ATen operations over a tree of modules that hold the tensors under the user's names.

    Called with the inputs in order; returns one tensor, or a tuple where the captured module returned several. Read weights with `read`,
    represent them with `represent`, never by module class: the tree holds data only.
    """

    inputs: tuple[Input, ...]
    aliases: dict[str, str]  # a tied tensor's other names -> the name that the graph reads

    def __init__(self, root: nn.Module, graph: fx.Graph, inputs: tuple[Input, ...], aliases: Mapping[str, str]) -> None:
        super().__init__(root, graph, "Program")
        for name, child in root.named_children():
            self.add_module(name, child)
        for name, parameter in root.named_parameters(recurse=False, remove_duplicate=False):
            self.register_parameter(name, parameter)
        for name, buffer in root.named_buffers(recurse=False, remove_duplicate=False):
            self.register_buffer(name, buffer, persistent=name not in root._non_persistent_buffers_set)
        self.inputs = inputs
        self.aliases = dict(aliases)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Switch dropout and normalization to training (or back); returns the program itself."""
        nn.Module.train(self, mode)
        changed = [node.update_arg(position, mode) for node, position in training_flags(self.graph) if node.args[position] != mode]
        if changed:
            self.recompile()
        return self

    def eval(self) -> Self:
        """Switch dropout and normalization to inference; returns the program itself."""
        return self.train(False)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> "Program":
        return clone(self)

    def __reduce__(self) -> Any:
        raise LaconicError("a program is not pickled: save it with laconic.program.save and read it with laconic.program.load")


def training_flags(graph: fx.Graph) -> Iterator[tuple[fx.Node, int]]:
    """Yield the nodes whose training flag follows the program's mode, with its position."""
    for node in graph.nodes:
        position = _TRAINING_FLAG.get(node.target)
        if position is not None and not node.meta.get("fixed"):
            yield node, position


def clone(program: Program) -> Program:
    """Return an independent copy: tensors, graph and representations; ties stay ties."""
    root = copy.deepcopy(tree(program))
    for module in root.modules():
        if parametrize.is_parametrized(module):  # a deep copy shares the generated class, and baking one copy would break the other
            generated = type(module)
            module.__class__ = type(generated.__name__, generated.__bases__, dict(generated.__dict__))
    copied = Program(root, copy.deepcopy(program.graph), program.inputs, program.aliases)
    return copied.train(program.training)


def tree(program: fx.GraphModule) -> nn.Module:
    """The tensors of a graph module without its graph, shared, not copied."""
    root = nn.Module()
    root._modules = dict(program._modules)
    root._parameters = dict(program._parameters)
    root._buffers = dict(program._buffers)
    root._non_persistent_buffers_set = set(program._non_persistent_buffers_set)
    return root


def example_of(program: Program, batch: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    """Return random inputs of a program's shapes and types: normal numbers, or zeros where it takes whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [((batch, *entry.shape), entry.dtype) for entry in program.inputs]
    return tuple(
        torch.randn(size, generator=generator, dtype=dtype) if dtype.is_floating_point else torch.zeros(size, dtype=dtype)
        for size, dtype in sizes
    )


def first_output(outputs: Any) -> Tensor:
    """Return what a program computes, or the first of several outputs."""
    first: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return first


def holder(program: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds the tensor called `name`, and its attribute there."""
    path, _, attribute = name.rpartition(".")
    return program.get_submodule(path), attribute


def read(program: nn.Module, name: str) -> Tensor:
    """Return the tensor called `name` as the graph reads it: dense, through its representations."""
    module, attribute = holder(program, name)
    value: Tensor = getattr(module, attribute)
    return value


def dense_state(program: Program) -> dict[str, Tensor]:
    """Return all tensors by the user's names as the graph reads them: dense, on the CPU, ties once."""
    plain = [name for name in own_tensors(program) if name not in program.aliases]
    represented = [str(node.target) for node in program.graph.nodes if node.op == "get_attr"]
    return {name: read(program, name).detach().cpu().contiguous() for name in dict.fromkeys([*plain, *represented])}


def own_tensors(program: Program) -> list[str]:
    """Return the names of the network's parameters and buffers, ties under each name, without those that belong to representations."""
    lists = [path for path, module in program.named_modules() if isinstance(module, parametrize.ParametrizationList)]
    inside = tuple(f"{path}." for path in [*lists, *(str(node.target) for node in program.graph.nodes if node.op == "call_module")])
    named = [*program.named_parameters(remove_duplicate=False), *program.named_buffers(remove_duplicate=False)]
    return [name for name, _ in named if not name.startswith(inside)]


def place(program: nn.Module, name: str, value: Tensor, trainable: bool = True, persistent: bool = True) -> None:
    """Put a new tensor under `name`, making the modules on the way; what was there is replaced.

    Args:
        program: a program, or any tree of modules.
        name: where, with dots.
        value: the tensor; detached.
        trainable: whether it is a parameter, or else a buffer.
        persistent: of a buffer: whether it is part of the state dict.
    """
    *path, attribute = name.split(".")
    module = program
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if attribute in module._parameters or attribute in module._buffers:
        delattr(module, attribute)
    if trainable:
        module.register_parameter(attribute, nn.Parameter(value.detach(), requires_grad=value.is_floating_point()))
    else:
        module.register_buffer(attribute, value.detach(), persistent=persistent)


def _has_effect(node: fx.Node) -> bool:
    """Say whether a node matters though nothing reads it: it writes into a tensor. Drawing random numbers is no such effect."""
    schema = getattr(node.target, "_schema", None)
    return node.op in ("placeholder", "output") or (schema is not None and bool(schema.is_mutable))


def tidy(program: Program) -> None:
    """After an edit: drop dead nodes and the tensors that nothing reads any more, check the graph and compile it."""
    program.graph.eliminate_dead_code(_has_effect)
    read_names = {node.target for node in program.graph.nodes if node.op == "get_attr"}
    kept = read_names | {alias for alias, name in program.aliases.items() if name in read_names}
    for name in own_tensors(program):
        if name not in kept:
            module, attribute = holder(program, name)
            delattr(module, attribute)
    program.aliases = {alias: name for alias, name in program.aliases.items() if name in read_names}
    program.graph.lint()
    program.recompile()
