"""The optimizers, and which parameters decay."""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from laconic.errors import LaconicError
from laconic.program import Representation
from laconic.train.settings import Training


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient, by name, tied ones once.

    Raises:
        LaconicError: there are none.
    """
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise LaconicError("nothing to train: no parameter of the model requires a gradient; call model.requires_grad_() first")
    return found


def decays(parameter: Tensor) -> bool:
    """Tell whether weight decay applies: not to biases, norms and scales, which hold at most one number per row."""
    return parameter.ndim > 1 and parameter.numel() > len(parameter)


def scales(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters of representations, which never decay; one per group of entries, they are as many to the row as weights."""
    return {parameter for module in model.modules() if isinstance(module, Representation) for parameter in module.parameters()}


def optimizer(parameters: list[nn.Parameter], training: Training, undecayed: Collection[nn.Parameter] = frozenset()) -> Optimizer:
    """Make the optimizer that `training` names; fused, which is 3 to 6 times as fast as its loop.

    Its groups have a `factor` of the learning rate. Adam moves every parameter by about the learning rate, whatever its gradient, so
    scales get it as a share of their size (which is Adam on their logarithm, to first order: S. Jain et al., "Trained Quantization
    Thresholds for Accurate and Efficient Fixed-Point Inference of Deep Neural Networks", MLSys 2020, section 3.2).

    Args:
        parameters: what is trained.
        training: how.
        undecayed: the scales among them.
    """
    scales = [parameter for parameter in parameters if parameter in set(undecayed)]
    relative = scales if training.optimizer == "adamw" else []
    others = [parameter for parameter in parameters if parameter not in set(relative)]
    decayed = {parameter for parameter in others if decays(parameter)} - set(scales)
    groups = [
        {"params": [parameter for parameter in others if parameter in decayed], "weight_decay": training.weight_decay, "factor": 1.0},
        {"params": [parameter for parameter in others if parameter not in decayed], "weight_decay": 0.0, "factor": 1.0},
        *({"params": [scale], "weight_decay": 0.0, "factor": float(scale.detach().abs().mean())} for scale in relative),
    ]
    if training.optimizer == "adamw":
        return AdamW(groups, lr=training.learning_rate, betas=(training.momentum, 0.999), fused=True)
    sgd = SGD(groups, lr=training.learning_rate, momentum=training.momentum, nesterov=training.momentum > 0, fused=True)
    for parameter in parameters if training.momentum else ():
        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)  # fused wants all or none; some get their first gradient late
    return sgd


def flatten(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named "<parameter index>.<name>"."""
    states = optimizer.state_dict()["state"].items()
    return {f"{index}.{name}": value for index, state in states for name, value in state.items() if isinstance(value, Tensor)}


def restore(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give the optimizer the state that `flatten` returned."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, state in optimizer.state.items():  # the fused kernels want them laid out alike
        state.update({name: torch.empty_like(parameter).copy_(value) for name, value in state.items() if value.shape == parameter.shape})
