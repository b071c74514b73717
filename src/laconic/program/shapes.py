"""The shapes of every value in a program, with a free batch, found without computing anything."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from laconic.program.program import Program
from laconic.program.select import RECURRENT


def infer_shapes(program: Program) -> Program:
    """Set every node's `val` to a fake tensor of its shape, by running the graph on fake inputs with a free batch; returns the program."""
    from torch._dispatch.python import enable_python_dispatcher
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes = []
    for entry in program.inputs:
        free = [DimDynamic.DYNAMIC] + [DimDynamic.STATIC] * len(entry.shape)
        context: Any = StatelessSymbolicContext(dynamic_sizes=free, constraint_sizes=[None] * len(free))
        fakes.append(mode.from_tensor(torch.empty((2, *entry.shape), dtype=entry.dtype), symbolic_context=context))
    with mode, enable_python_dispatcher(), torch.no_grad():
        _ShapeRecorder(program).run(*fakes)
    return program


class _Shapes(fx.Interpreter):
    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _recurrent_outputs(*args, **kwargs) if target in RECURRENT else super().call_function(target, args, kwargs)


class _ShapeRecorder(_Shapes):
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        n.meta["val"] = value
        return value


def _recurrent_outputs(inputs: Tensor, state: Tensor | Sequence[Tensor], *settings: Any) -> tuple[Tensor, ...]:
    """Return tensors of the shapes that a recurrent layer gives; torch would take it apart into its steps to find them, in seconds.

    Args:
        inputs: two axes of examples and steps, in either order, and the features.
        state: of the layer; of an LSTM the state, whose size outputs have, and the memory.
        settings: the others of the operation; the last but one says whether the layer goes both ways.
    """
    states = [state] if isinstance(state, Tensor) else list(state)
    *_, both_ways, _ = settings
    outputs = inputs.new_empty((*inputs.shape[:-1], states[0].shape[-1] * (1 + both_ways)))
    return (outputs, *(each.new_empty(each.shape) for each in states))


def shapes(program: Program, batch: int) -> dict[fx.Node, Any]:
    """Return what every node computes, as fake tensors, for inputs of a given batch; nothing is computed or kept in memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    values: dict[fx.Node, Any] = {}

    class Recorder(_Shapes):
        def run_node(self, n: fx.Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        fakes = [mode.from_tensor(torch.empty((1, *entry.shape), dtype=entry.dtype)) for entry in program.inputs]
        inputs = [fake.new_empty((batch, *entry.shape)) for fake, entry in zip(fakes, program.inputs, strict=True)]
        Recorder(program).run(*inputs)
    return values
