"""How images and kernels lie in memory while a network is trained; names, shapes and values stay."""

import torch
from torch import nn

from laconic.data.dataset import Split
from laconic.train import checkpoint

_EXAMPLES = 2


def suits(model: nn.Module, split: Split, device: torch.device) -> bool:
    """Say whether channels last in memory can be computed in: there are images and kernels, and no operation refuses the layout.

    A captured graph may hold views that demand the layout that it was captured in; the first examples of `split` tell.
    """
    inputs, _ = split.batch(slice(0, _EXAMPLES))
    if inputs.ndim != 4 or all(tensor.ndim != 4 for tensor in checkpoint.tensors(model).values()):
        return False
    was_training = model.training
    model.eval()
    lay_out(model, torch.channels_last)
    try:
        with torch.no_grad():
            model(channels_last(inputs).to(device))
    except RuntimeError:
        return False
    finally:
        lay_out(model, torch.contiguous_format)
        model.train(was_training)
    return True


def channels_last(inputs: torch.Tensor) -> torch.Tensor:
    """Return four-dimensional inputs as (n, height, width, channels) in memory, others as they are."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs


@torch.no_grad()
def lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    """Keep the four-dimensional tensors of `model` in `layout`."""
    for tensor in checkpoint.tensors(model).values():
        if tensor.ndim == 4:
            tensor.data = tensor.contiguous(memory_format=layout)
