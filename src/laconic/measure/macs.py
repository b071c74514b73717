"""Multiply-accumulates of convolutions, matrix products and attention, counted on the operations that really run.

One multiply-accumulate is two of the floating-point operations that `torch.utils.flop_counter` counts. Elementwise operations,
normalization and pooling do not count, as everywhere in the field.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, fx, nn
    from torch.utils.flop_counter import FlopCounterMode


def macs(module: "nn.Module", example: "tuple[Tensor, ...]") -> int:
    """Count the multiply-accumulates of one example.

    Args:
        module: run in eval mode without gradients; its training flags are as before afterwards. What a parametrization
            computes to make its dense view does not count.
        example: inputs whose first axis is the batch.
    """
    with _ready(module), _counter() as counter:
        module(*example)
    return _per_example(counter, example)


def macs_per_node(program: "fx.GraphModule", example: "tuple[Tensor, ...]") -> dict[str, int]:
    """Count the multiply-accumulates of one example at every call in the graph of `program`, under the name of its node.

    The sum is `macs(program, example)`, up to the rounding down of operations that do not depend on the batch.
    """
    from torch.fx import Interpreter

    counts: dict[str, int] = {}

    class Counting(Interpreter):
        def run_node(self, n: "torch.fx.Node") -> Any:
            with _counter() as counter:
                result = super().run_node(n)
            if n.op.startswith("call"):
                counts[n.name] = _per_example(counter, example)
            return result

    with _ready(program):
        Counting(program).run(*example)
    return counts


def _counter() -> "FlopCounterMode":
    """Return a counter that also knows the operations of the CPU that torch's own leaves out."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        batch, heads, length, width = query
        return int(2 * batch * heads * length * key[2] * (width + value[3]))

    def recurrent(inputs: Any, to_input: Any, to_hidden: Any, *_: Any, **__: Any) -> int:
        steps, batch, _width = inputs
        return int(2 * steps * batch * to_input[0] * (to_input[1] + to_hidden[1]))

    def matrix_vector(matrix: Any, *_: Any, **__: Any) -> int:
        return int(2 * matrix[0] * matrix[1])

    formulas = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.aten.mkldnn_rnn_layer: recurrent,
        torch.ops.aten.mv: matrix_vector,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def _per_example(counter: "FlopCounterMode", example: "tuple[Tensor, ...]") -> int:
    return int(counter.get_total_flops()) // 2 // len(example[0])


@contextmanager
def _ready(module: "nn.Module") -> Iterator[None]:
    """Hold `module` in eval mode, without gradients, dense views made beforehand and fused fast paths (which hide their products) off."""
    import torch
    from torch.nn.utils import parametrize

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _in_eval_mode(module), torch.no_grad(), parametrize.cached():
            for holder in module.modules():
                for name in holder.parametrizations if parametrize.is_parametrized(holder) else ():  # type: ignore[union-attr]
                    getattr(holder, name)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _in_eval_mode(module: "nn.Module") -> Iterator[None]:
    """Switch to eval mode for the block, then give every submodule the flag that it had."""
    flags = [(each, each.training) for each in module.modules()]
    if any(flag for _, flag in flags):
        module.eval()
    try:
        yield
    finally:
        if any(flag for _, flag in flags):
            module.train(module in (each for each, flag in flags if flag))  # a program also sets the flags in its graph
        for each, flag in flags:
            each.training = flag
