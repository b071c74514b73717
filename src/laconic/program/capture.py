"""A network as a program: one graph of ATen operations with the user's parameter names, trainable, editable, exportable.

A program is made once, at the door, from any module that `torch.export` understands (J. Reed et al., "torch.fx", MLSys 2022, gives the
graph; the operations are those of PyTorch's export). What a module does only while training and only in Python (stochastic depth,
auxiliary heads) is not captured; dropout and batch norm are, and follow `train()` and `eval()`.
"""

import copy
import io
import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from laconic.errors import LaconicError

aten = torch.ops.aten
Example: TypeAlias = tuple[Tensor, ...] | Mapping[str, Tensor]

_TORCH = str(Path(torch.__file__).parent)

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
_RUNNING_MEAN = 3  # of batch and instance norm; without running statistics they use those of the batch in both modes


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
        changed = [node.update_arg(position, mode) for node, position in _training_flags(self.graph) if node.args[position] != mode]
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


def _training_flags(graph: fx.Graph) -> Iterator[tuple[fx.Node, int]]:
    for node in graph.nodes:
        position = _TRAINING_FLAG.get(node.target)
        statistics_of_batch = position == 5 and node.args[_RUNNING_MEAN] is None
        if position is not None and not statistics_of_batch:
            yield node, position


def clone(program: Program) -> Program:
    """Return an independent copy: tensors, graph and representations; ties stay ties."""
    root = copy.deepcopy(_tree(program))
    for module in root.modules():
        if parametrize.is_parametrized(module):  # a deep copy shares the generated class, and baking one copy would break the other
            generated = type(module)
            module.__class__ = type(generated.__name__, generated.__bases__, dict(generated.__dict__))
    copied = Program(root, copy.deepcopy(program.graph), program.inputs, program.aliases)
    return copied.train(program.training)


def _tree(program: fx.GraphModule) -> nn.Module:
    """The tensors of a graph module without its graph, shared, not copied."""
    root = nn.Module()
    root._modules = dict(program._modules)
    root._parameters = dict(program._parameters)
    root._buffers = dict(program._buffers)
    root._non_persistent_buffers_set = set(program._non_persistent_buffers_set)
    return root


def capture(model: nn.Module, example: Example) -> Program:
    """Turn a module into a program; the module is left as it was.

    Args:
        model: any module that `torch.export` can follow.
        example: its inputs, as a tuple, or by name; first axis the batch, of 2 or more examples.

    Raises:
        LaconicError: the batch is smaller than 2, or `torch.export` cannot follow the module (names the line of the user's code).
    """
    arguments, keywords = (tuple(example), {}) if not isinstance(example, Mapping) else ((), dict(example))
    _check_example(list(arguments) + list(keywords.values()))
    with _as_inference(model):
        exported = _export(model, arguments, keywords)
    module = exported.module(check_guards=False)
    _inline_wrapped(module)
    _flatten_signature(module)
    _make_functional(module.graph)
    for node in module.graph.nodes:
        node.meta = _kept_metadata(node)
    module.graph.eliminate_dead_code()
    return clone(Program(_tree(module), module.graph, _inputs(module.graph), _aliases(model, module.graph)))


def _check_example(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.ndim == 0 or len(tensor) < 2:
            came = f"a tensor of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise LaconicError(f"the example inputs must be tensors with a batch of 2 or more on the first axis; got {came}")


@contextmanager
def _as_inference(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode and attention's fused fast path off, and undo both."""
    modes = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes.items():
            module.training = mode


def _export(model: nn.Module, arguments: tuple[Tensor, ...], keywords: dict[str, Tensor]) -> torch.export.ExportedProgram:
    shapes = torch.export.ShapesCollection()
    for tensor in [*arguments, *keywords.values()]:
        shapes[tensor] = {0: torch.export.Dim.DYNAMIC}
    logging.disable(logging.CRITICAL)  # the tracer logs and prints pages about what the error below says in a line
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return torch.export.export(model, arguments, keywords, dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises whatever the user's forward or its own tracer raises
        raise LaconicError(_cannot_capture(model, error)) from error
    finally:
        logging.disable(logging.NOTSET)


def _cannot_capture(model: nn.Module, error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith((_TORCH, "<", str(Path(__file__).parent)))]
    where = f" at {frames[-1].filename}:{frames[-1].lineno} ({frames[-1].line})" if frames else ""
    reason = str(error).strip().split("\n")[0][:300]
    return (
        f"torch.export cannot follow {type(model).__name__}{where}: {type(error).__name__}: {reason}. "
        "Take decisions on shapes or settings, not on the values of tensors, and leave the batch size free"
    )


def _inline_wrapped(module: fx.GraphModule) -> None:
    """Replace `with torch.no_grad()` and autocast regions, which export wraps in a submodule, by their operations."""
    for node in list(module.graph.nodes):
        if getattr(node.target, "__name__", "") not in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
            continue
        at = next(i for i, argument in enumerate(node.args) if isinstance(argument, fx.Node) and argument.op == "get_attr")
        holder = node.args[at]
        body = module.get_submodule(holder.target)
        placeholders = [inner for inner in body.graph.nodes if inner.op == "placeholder"]
        with module.graph.inserting_before(node):
            outputs = module.graph.graph_copy(body.graph, dict(zip(placeholders, node.args[at + 1 :], strict=True)))
            if node.args[0] is False:  # the region's gradients are switched off: so are those of its outputs
                outputs = tuple(_detached(module.graph, output) for output in outputs)
        for user in list(node.users):  # operator.getitem of the region's outputs
            user.replace_all_uses_with(outputs[user.args[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(node)
        module.graph.erase_node(holder)
        module.delete_submodule(holder.target)


def _detached(graph: fx.Graph, value: fx.Node) -> fx.Node:
    detached = graph.call_function(aten.detach.default, (value,))
    detached.meta = dict(value.meta)
    return detached


def _flatten_signature(module: fx.GraphModule) -> None:
    """Make the graph take its inputs in order and return one tensor or a tuple of tensors."""
    output = next(node for node in module.graph.nodes if node.op == "output")
    tensors = tuple(value for value in output.args[0] if isinstance(value, fx.Node))
    output.args = (tensors[0] if len(tensors) == 1 else tensors,)
    module.graph.set_codegen(fx.graph.CodeGen())
    for node in reversed(module.graph.nodes):
        if "assert" in str(node.target) or "constrain_range" in str(node.target):
            module.graph.erase_node(node)


def _make_functional(graph: fx.Graph) -> None:
    """Turn `x.relu_()` and its like into `x.relu()`, with every later reader of `x` reading the result.

    An operation on a view of another tensor is left in place, since the other tensor changes too.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        functional = _functional(node)
        if functional is None:
            continue
        changed = node.args[0]
        node.target = functional
        for user in list(changed.users):
            if order[user] > order[node]:
                user.replace_input_with(changed, node)


def _functional(node: fx.Node) -> Any:
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not schema.is_mutable or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    namespace, name = schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    overload = getattr(packet, node.target._overloadname, None)
    return overload if name.endswith("_") and overload is not None and not _is_view(node.args[0]) else None


def _is_view(node: fx.Node) -> bool:
    if node.op in ("placeholder", "get_attr"):
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(value.alias_info is not None for value in schema.returns)


def _kept_metadata(node: fx.Node) -> dict[str, Any]:
    """Shape (`val`), the user's source line (`source`) and the path of the module that ran it (`module`)."""
    kept = {"val": node.meta.get("val")}
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").split("\n") if line.strip().startswith("File ")]
    own = [line for line in lines if "/torch/" not in line]
    if own:
        kept["source"] = own[-1].removeprefix("File ").replace('"', "").replace(", line ", ":")
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if stack:
        kept["module"] = stack[-1][0]
    return kept


def _inputs(graph: fx.Graph) -> tuple[Input, ...]:
    values = [(node.name, node.meta["val"]) for node in graph.nodes if node.op == "placeholder"]
    return tuple(Input(name, tuple(int(size) for size in value.shape[1:]), value.dtype) for name, value in values)


def _aliases(model: nn.Module, graph: fx.Graph) -> dict[str, str]:
    read = {node.target for node in graph.nodes if node.op == "get_attr" and node.users}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    tied = (group for group in names.values() if len(group) > 1)
    return {name: next((n for n in group if n in read), group[0]) for group in tied for name in group if name not in read}


def example_of(program: Program, batch: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    """Return random inputs of a program's shapes and types: normal numbers, or zeros where it takes whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [((batch, *entry.shape), entry.dtype) for entry in program.inputs]
    return tuple(torch.randn(size, generator=generator, dtype=dtype) if dtype.is_floating_point else torch.zeros(size, dtype=dtype) for size, dtype in sizes)


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
    own = [name for name, _ in [*program.named_parameters(remove_duplicate=False), *program.named_buffers(remove_duplicate=False)]]
    plain = [name for name in own if ".parametrizations." not in f".{name}" and not name.startswith("edges.") and name not in program.aliases]
    represented = [str(node.target) for node in program.graph.nodes if node.op == "get_attr"]
    return {name: read(program, name).detach().cpu().contiguous() for name in dict.fromkeys([*plain, *represented])}


def place(program: nn.Module, name: str, value: Tensor, trainable: bool = True) -> None:
    """Put a new tensor under `name`, making the modules on the way; what was there is replaced."""
    *path, attribute = name.split(".")
    module = program
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if attribute in module._parameters or attribute in module._buffers:
        delattr(module, attribute)
    if trainable:
        module.register_parameter(attribute, nn.Parameter(value.detach()))
    else:
        module.register_buffer(attribute, value.detach())


def tidy(program: Program) -> None:
    """After an edit: drop dead nodes and the tensors that nothing reads any more, check the graph and compile it."""
    program.graph.eliminate_dead_code()
    read_names = {node.target for node in program.graph.nodes if node.op == "get_attr"}
    kept = read_names | {alias for alias, name in program.aliases.items() if name in read_names}
    for name in [*dict(program.named_parameters(remove_duplicate=False)), *dict(program.named_buffers(remove_duplicate=False))]:
        if name not in kept and ".parametrizations." not in f".{name}" and not name.startswith("edges."):
            module, attribute = holder(program, name)
            delattr(module, attribute)
    program.aliases = {alias: name for alias, name in program.aliases.items() if name in read_names}
    program.graph.lint()
    program.recompile()


def write_back(program: Program, module: nn.Module) -> nn.Module:
    """Write a program's tensors into a module of the user's own class, resizing where shapes changed; returns the module.

    A submodule all of whose tensors are gone from the program (a folded batch norm) becomes `nn.Identity`.

    Raises:
        LaconicError: the module's own Python does not compute what the program computes any more; save the program instead.
    """
    names = [*dict(module.named_parameters(remove_duplicate=False)), *dict(module.named_buffers(remove_duplicate=False))]
    held = {name for name in names if _holds(program, program.aliases.get(name, name))}
    for path, child in list(module.named_modules()):
        own = [name for name in names if name.startswith(f"{path}.")]
        if path and own and not held.intersection(own) and not any(True for _ in child.children()):
            owner, attribute = holder(module, path)
            owner._modules[attribute] = nn.Identity()
    for name in _written(program, module, held):
        value = read(program, program.aliases.get(name, name))
        place(module, name, value.clone(), trainable=isinstance(value, nn.Parameter) or value.requires_grad)
    _retie(module, program.aliases)
    _check_same(program, module)
    return module


def _written(program: Program, module: nn.Module, held: set[str]) -> list[str]:
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
        owner, attribute = holder(module, alias)
        setattr(owner, attribute, read(module, name))


def _check_same(program: Program, module: nn.Module) -> None:
    example = example_of(program)
    try:
        with torch.no_grad(), _as_inference(module):
            theirs, ours = module(*example), clone(program).eval()(*example)
        same = all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(_tensors(theirs), _tensors(ours), strict=True))
    except (RuntimeError, ValueError, TypeError) as error:
        raise LaconicError(f"{type(module).__name__} cannot hold the compressed tensors ({error}); save the program instead") from error
    if not same:
        raise LaconicError(f"{type(module).__name__} computes something else with the compressed tensors; save the program instead")


def _tensors(value: Any) -> list[Tensor]:
    leaves: list[Any] = torch.utils._pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
