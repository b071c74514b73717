"""Capture: the user's module becomes a program, once, at the door, by `torch.export`.

What a module does only while training and only in Python (stochastic depth, auxiliary heads) is not captured; dropout and batch norm are,
and follow `train()` and `eval()`.
"""

import io
import logging
import sysconfig
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn

from laconic.errors import LaconicError
from laconic.program.program import Input, Program, clone, training_flags, tree

aten = torch.ops.aten
Example: TypeAlias = tuple[Tensor, ...] | Mapping[str, Tensor]

_MOMENTUM = 0.1
_TORCH = str(Path(torch.__file__).parent)


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
    with as_inference(model):
        exported = _export(model, arguments, keywords)
    module = exported.module(check_guards=False)
    _keep_constants(module)
    _inline_wrapped(module)
    _flatten_signature(module)
    _make_functional(module.graph)
    for node in module.graph.nodes:
        node.meta = _kept_metadata(node)
    _fix_flags(model, module.graph)
    module.graph.eliminate_dead_code()
    return clone(Program(tree(module), module.graph, _inputs(module.graph), _aliases(model, module.graph)))


def only_in_training(model: nn.Module) -> list[str]:
    """Name the parts of a model whose own Python looks at `training`, so that what they do only while training is not captured.

    torch's own layers are not among them, but for batch norm that keeps a cumulative average (`momentum=None`).
    """
    found = []
    for name, module in model.named_modules():
        own = not type(module).__module__.startswith("torch.")
        if own and any("training" in code.co_names for code in _codes(type(module))):
            found.append(f"{name or 'the network'} ({type(module).__name__}): what its forward does only while training")
        if getattr(module, "running_mean", None) is not None and getattr(module, "momentum", 0) is None:
            found.append(f"{name} ({type(module).__name__}): its cumulative average; its statistics follow with a momentum of {_MOMENTUM}")
    return found


def _codes(cls: type) -> list[CodeType]:
    methods = (value for value in vars(cls).values() if isinstance(value, FunctionType))
    return [method.__code__ for method in methods if method.__name__ not in ("__init__", "train", "eval")]


def _keep_constants(module: fx.GraphModule) -> None:
    """Make tensors that the model's Python made on the spot buffers, so that they are kept with the others."""
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        path, _, attribute = str(node.target).rpartition(".")
        owner = module.get_submodule(path)
        value = vars(owner).get(attribute)  # parameters and buffers are not plain attributes
        if isinstance(value, Tensor):
            delattr(owner, attribute)
            owner.register_buffer(attribute, value, persistent=False)


def _fix_flags(model: nn.Module, graph: fx.Graph) -> None:
    """Mark flags that are on in eval mode too (statistics of the batch, dropout that always drops) to stay so; give a momentum to
    batch norms that keep a cumulative average, which a graph cannot.
    """
    for node, position in training_flags(graph):
        if node.args[position] is True:
            node.meta["fixed"] = True
        path = node.meta.get("module")
        module = dict(model.named_modules()).get(path) if path is not None else None
        if position == 5 and getattr(module, "momentum", 0.1) is None:
            node.update_arg(6, _MOMENTUM)


def _check_example(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.ndim == 0 or len(tensor) < 2:
            came = f"a tensor of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise LaconicError(f"the example inputs must be tensors with a batch of 2 or more on the first axis; got {came}")


@contextmanager
def as_inference(model: nn.Module) -> Iterator[None]:
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
    shapes: Any = torch.export.ShapesCollection()
    for tensor in [*arguments, *keywords.values()]:
        shapes[tensor] = {0: torch.export.Dim.DYNAMIC}
    logging.disable(logging.CRITICAL)  # the tracer logs and prints pages about what the error below says in a line
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
            return torch.export.export(model, arguments, keywords, dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises whatever the user's forward or its own tracer raises
        raise LaconicError(_cannot_capture(model, _shown(model, arguments, keywords, error))) from error
    finally:
        logging.disable(logging.NOTSET)


def _shown(model: nn.Module, arguments: tuple[Tensor, ...], keywords: dict[str, Tensor], error: Exception) -> Exception:
    """Return an error that names a line: the tracer's, or what the model raises itself when the batch is another."""
    if any(_is_users(frame.filename) for frame in traceback.extract_tb(error.__traceback__)):
        return error
    try:
        with torch.no_grad():
            model(*(torch.cat([t, t[:1]]) for t in arguments), **{name: torch.cat([t, t[:1]]) for name, t in keywords.items()})
    except Exception as shown:  # the user's forward may raise anything
        return shown
    return error


def _cannot_capture(model: nn.Module, error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    where = f" at {frames[-1].filename}:{frames[-1].lineno} ({frames[-1].line})" if frames else ""
    reason = str(error).strip().split("\n")[0][:300].rstrip(".")
    return (
        f"torch.export cannot follow {type(model).__name__}{where}: {type(error).__name__}: {reason}. "
        "Take decisions on shapes or settings, not on the values of tensors, and leave the batch size free"
    )


def _is_users(file: str) -> bool:
    own, standard = str(Path(__file__).parent), sysconfig.get_paths()["stdlib"]
    return not file.startswith((_TORCH, "<", own)) and (not file.startswith(standard) or "site-packages" in file)


def _inline_wrapped(module: fx.GraphModule) -> None:
    """Replace `with torch.no_grad()` and autocast regions, which export wraps in a submodule, by their operations."""
    for node in list(module.graph.nodes):
        if getattr(node.target, "__name__", "") not in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
            continue
        at = next(i for i, argument in enumerate(node.args) if isinstance(argument, fx.Node) and argument.op == "get_attr")
        region = node.args[at]
        body = module.get_submodule(region.target)
        assert isinstance(body, fx.GraphModule)
        if "autocast" in node.target.__name__ and node.args[2] is not False:
            raise LaconicError(
                f"the autocast region at {node.meta.get('source', node.name)} cannot be captured: put autocast around the network"
            )
        outputs = _copied(module.graph, body.graph, node, node.args[at + 1 :])
        if node.args[0] is False:  # the region's gradients are switched off: so are those of its outputs
            outputs = [_detached(module.graph, output) if isinstance(output.meta.get("val"), Tensor) else output for output in outputs]
        for user in list(node.users):  # operator.getitem of the region's outputs
            user.replace_all_uses_with(outputs[user.args[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(node)
        module.graph.erase_node(region)
        module.delete_submodule(region.target)


def _copied(graph: fx.Graph, body: fx.Graph, before: fx.Node, inputs: Any) -> list[fx.Node]:
    """Copy a region's operations in front of a node; returns its outputs."""
    placeholders = [inner for inner in body.nodes if inner.op == "placeholder"]
    with graph.inserting_before(before):
        outputs: Any = graph.graph_copy(body, dict(zip(placeholders, inputs, strict=True)))
    return list(outputs)


def _detached(graph: fx.Graph, value: fx.Node) -> fx.Node:
    with graph.inserting_after(value):
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
        if any(order[user] < order[node] and _shares_memory(user) for user in changed.users):
            continue
        node.target = functional
        for user in list(changed.users):
            if order[user] > order[node]:
                user.replace_input_with(changed, node)


def _functional(node: fx.Node) -> Any:
    operation: Any = node.target
    schema = getattr(operation, "_schema", None)
    if node.op != "call_function" or schema is None or not schema.is_mutable or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    namespace, name = schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    overload = getattr(packet, operation._overloadname, None)
    return overload if name.endswith("_") and overload is not None and not _shares_memory(node.args[0]) else None


def _shares_memory(node: fx.Node) -> bool:
    """Say whether a value may be a view of another: then changing one in place changes both."""
    if node.op in ("placeholder", "get_attr") or "dropout" in str(node.target):  # dropout in eval mode returns its input itself
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
