"""What a network takes: from what the user wrote, or as far as it is known of the network."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from laconic.errors import LaconicError

SHAPES: dict[str, tuple[int, ...]] = {
    "char_transformer": (256,),
    "detector": (3, 64, 64),
    "digits_cnn": (1, 8, 8),
    "lenet300": (1, 28, 28),
    "lenet5": (1, 28, 28),
    "minilm": (64,),
    "minilm_classifier": (64,),
    "mobilenet_v2": (3, 224, 224),
    "recursive": (1, 28, 28),
    "resnet20": (3, 32, 32),
    "resnet56": (3, 32, 32),
    "segmenter": (3, 64, 64),
    "sentence_cnn": (64,),
    "speech": (40, 98),
    "stories260k": (128,),
    "vgg": (3, 32, 32),
}
"""One example of each built-in network, without the batch; of one that takes a single axis, token ids."""

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float16, torch.int64, torch.int32, torch.bool)}
_INPUT = re.compile(r"(\d+(?:x\d+)*)(?::(\w+))?")


def example(spec: str, model: nn.Module, written: str | None = None, batch: int = 2) -> tuple[Tensor, ...]:
    """Return inputs for a network: normal numbers, or zeros where it takes whole numbers.

    Args:
        spec: as the user named the network, for built-in ones and messages.
        model: the network; timm's say what they take.
        written: what the user says it takes, see `read_inputs`; None: what is known of it.
        batch: size of the first axis.

    Raises:
        LaconicError: `written` is no such text, or nothing is known.
    """
    shape = known_shape(spec, model)
    if written is None and shape is None:
        raise LaconicError(
            f"the inputs of {spec} are not known: give --input with the shape of one example without the batch "
            "(3x224x224, or 128:int64 for token ids; several inputs separated by commas), or --data"
        )
    usual = torch.int64 if shape is not None and len(shape) == 1 else torch.float32
    inputs = read_inputs(written) if written is not None else [(shape or (), usual)]
    generator = torch.Generator().manual_seed(0)
    return tuple(_values((batch, *sizes), dtype, generator) for sizes, dtype in inputs)


def known_shape(spec: str, model: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of one example, without the batch, of a built-in network or one that timm made; None for any other."""
    name = spec.removeprefix("zoo:").partition("?")[0]
    if name in SHAPES:
        return SHAPES[name]
    settings = getattr(model, "pretrained_cfg", None)
    if not isinstance(settings, dict) or "input_size" not in settings:
        return None
    channels, *size = settings["input_size"]
    made_for = getattr(getattr(model, "patch_embed", None), "img_size", None)  # what the option img_size changes
    return (channels, *(made_for or size))


def read_inputs(text: str) -> Sequence[tuple[tuple[int, ...], torch.dtype]]:
    """Read shapes and types of inputs.

    >>> read_inputs("3x224x224")
    [((3, 224, 224), torch.float32)]
    >>> read_inputs("128:int64,128:int64")
    [((128,), torch.int64), ((128,), torch.int64)]

    Raises:
        LaconicError: says what is possible.
    """
    return [_input(part.strip(), text) for part in text.split(",")]


def _input(part: str, text: str) -> tuple[tuple[int, ...], torch.dtype]:
    found = _INPUT.fullmatch(part)
    sizes = tuple(map(int, found[1].split("x"))) if found else ()
    dtype = _DTYPES.get(found[2] or "float32") if found else None
    if dtype is None or 0 in sizes:
        raise LaconicError(
            f"--input is written as sizes without the batch, with a type where it is not float32: 3x224x224 or 128:int64, several "
            f"separated by commas; types: {', '.join(_DTYPES)}; got {text!r}"
        )
    return sizes, dtype


def _values(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator).to(dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)
