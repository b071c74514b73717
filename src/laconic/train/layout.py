"""How images and kernels lie in memory while a network is trained; names, shapes and values stay."""

import torch
from torch import nn

from laconic.data.dataset import Split
from laconic.train import checkpoint

_EXAMPLES = 2
_VECTOR = 8  # numbers of float32 in 256 bits


def suits(model: nn.Module, split: Split, device: torch.device) -> bool:
    """Say whether channels last in memory can be computed in: there are images and kernels, and no operation refuses the layout.

    A captured graph may hold views that demand the layout that it was captured in; the first examples of `split` tell.
    """
    inputs, _ = split.batch(slice(0, _EXAMPLES))
    if inputs.ndim != 4 or all(tensor.ndim != 4 for tensor in checkpoint.tensors(model).values()) or unsafe(model, device):
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


def unsafe(model: nn.Module, device: torch.device) -> str | None:
    """Name a kernel that must not be trained with channels last on this processor, if there is one.

    On x86 without AVX-512, torch 2.13 writes beyond its memory in the gradient of 1 x 1 kernels with a stride that read fewer channels than
    a vector holds (seen: 3, 4 and 6 channels, "corrupted double-linked list"). Strides are not known here, and the border is not
    documented: every such kernel whose channels do not fill vectors of 8 is left alone.
    """
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "DEFAULT"):
        return None
    kernels = ((name, tensor.shape) for name, tensor in checkpoint.tensors(model).items() if tensor.ndim == 4)
    return next((name for name, shape in kernels if tuple(shape[2:]) == (1, 1) and shape[1] % _VECTOR), None)


def channels_last(inputs: torch.Tensor) -> torch.Tensor:
    """Return four-dimensional inputs as (n, height, width, channels) in memory, others as they are.

    Of a single channel both layouts are the same numbers; what is computed from them follows the strides, which `to` sets.
    """
    return inputs.to(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs


@torch.no_grad()
def lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    """Keep the four-dimensional tensors of `model` in `layout`."""
    for tensor in checkpoint.tensors(model).values():
        if tensor.ndim == 4:
            tensor.data = tensor.contiguous(memory_format=layout)
