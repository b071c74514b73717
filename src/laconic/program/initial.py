"""A program's weights drawn anew, as for a network that has never been trained.

Source: K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", ICCV 2015, section 2.2 (normal with variance 2 / inputs).
"""

import torch
from torch import fx

from laconic.errors import LaconicError
from laconic.program.program import Program, clone, holder
from laconic.program.represent import represented
from laconic.program.select import weights

aten = torch.ops.aten

_NORMS: dict[object, tuple[int, ...]] = {  # operation -> positions of its scales and running variances, which begin at 1
    aten.batch_norm.default: (1, 4),
    aten.instance_norm.default: (1, 4),
    aten.layer_norm.default: (2,),
    aten.group_norm.default: (2,),
    aten.rms_norm.default: (2,),
}
_RECURRENT = ("lstm", "gru", "rnn")


@torch.no_grad()
def randomized(program: Program, generator: torch.Generator) -> Program:
    """Return a copy with random weights: kernels and matrices normal, scales of norms 1, biases 0, embeddings as spread as they were.

    What else the graph reads, such as tables of positions, is drawn as spread as it was where it is a parameter, and else stays.

    Raises:
        LaconicError: weights are represented, so that there is nothing to draw.
    """
    for name, forms in represented(program):
        raise LaconicError(f"there is nothing to draw anew in a network whose weights are compressed: {name} is {forms[0].name}")
    fresh = clone(program)
    kinds = {weight.name: weight.kind for weight in weights(fresh)}
    ones = {
        node.args[position].target
        for node in fresh.graph.nodes
        for position in _NORMS.get(node.target, ())
        if len(node.args) > position and isinstance(node.args[position], fx.Node)
    }
    statistics = {node.args[3].target for node in fresh.graph.nodes if node.target is aten.batch_norm.default and node.args[3] is not None}
    for name in dict.fromkeys(str(node.target) for node in fresh.graph.nodes if node.op == "get_attr"):
        module, attribute = holder(fresh, name)
        tensor = getattr(module, attribute)
        if name in ones:
            tensor.fill_(1)
        elif name in statistics:
            tensor.zero_()
        elif isinstance(tensor, torch.nn.Parameter) and tensor.is_floating_point():
            _draw(tensor, kinds.get(name, ""), generator)
    return fresh


def _draw(tensor: torch.Tensor, kind: str, generator: torch.Generator) -> None:
    if kind == "embedding" or (not kind and tensor.ndim > 1):
        tensor.normal_(0, float(tensor.std()) if tensor.numel() > 1 else 1.0, generator=generator)
    elif kind in _RECURRENT or tensor.ndim > 1:
        inputs = tensor[0].numel()
        tensor.normal_(0, (1 / inputs if kind in _RECURRENT else 2 / inputs) ** 0.5, generator=generator)
    else:
        tensor.zero_()
