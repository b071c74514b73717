"""Networks by name."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from laconic.errors import LaconicError, unknown
from laconic.imported import call, options
from laconic.zoo import timm
from laconic.zoo.char_transformer import char_transformer
from laconic.zoo.digits import digits_cnn
from laconic.zoo.lenet import lenet5, lenet300
from laconic.zoo.llama import stories260k
from laconic.zoo.minilm import minilm
from laconic.zoo.mobilenet import mobilenet_v2
from laconic.zoo.recursive import recursive
from laconic.zoo.resnet import resnet20, resnet56, shortcut_of
from laconic.zoo.scenes import detector, segmenter
from laconic.zoo.sentence_cnn import sentence_cnn
from laconic.zoo.sentiment import minilm_classifier
from laconic.zoo.speech import speech
from laconic.zoo.vgg import vgg
from laconic.zoo.weights import load_weights, read_weights

MODELS: dict[str, Callable[..., nn.Module]] = {
    "char_transformer": char_transformer,
    "detector": detector,
    "digits_cnn": digits_cnn,
    "lenet300": lenet300,
    "lenet5": lenet5,
    "minilm": minilm,
    "minilm_classifier": minilm_classifier,
    "mobilenet_v2": mobilenet_v2,
    "recursive": recursive,
    "resnet20": resnet20,
    "resnet56": resnet56,
    "segmenter": segmenter,
    "sentence_cnn": sentence_cnn,
    "speech": speech,
    "stories260k": stories260k,
    "vgg": vgg,
}
"""The built-in networks: functions that build one, with its options by keyword."""


def load(spec: str, weights: Path | str | None = None) -> nn.Module:
    """Build a network, on the CPU and in eval mode, and fill it with weights.

    Args:
        spec: `zoo:NAME` or `NAME` of a built-in network, `timm:NAME` of one of timm's, or the user's own `file.py:function` or
            `package.module:function` that returns a module; options follow as a URL query: `zoo:digits_cnn?width=32`.
        weights: see `load_weights`; None: those the function gives it (for built-in and timm's networks random ones, from torch's global
            generator; but `timm:NAME?pretrained=true` downloads its own).

    Raises:
        LaconicError: an unknown name or option, timm is not installed, an error in the user's function, or weights that do not fit.
    """
    weights = Path(weights) if weights is not None else None
    place, _, query = spec.partition("?")
    name = place.removeprefix("zoo:")
    if name.startswith("timm:"):
        model = timm.create(name.removeprefix("timm:"), query)
    else:
        model = _built(name, query, weights) if ":" not in name else _own(spec)
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def _built(name: str, query: str, weights: Path | None) -> nn.Module:
    if name not in MODELS:
        raise unknown("model", name, [*MODELS, "FILE.py:FUNCTION", "timm:NAME"])
    arguments = options(MODELS[name], query, name)
    if name.startswith("resnet") and weights is not None and "shortcut" not in arguments:
        arguments["shortcut"] = shortcut_of(read_weights(weights))  # both kinds are published under one name
    return MODELS[name](**arguments)


def _own(spec: str) -> nn.Module:
    timm.mend_torchvision()  # the user's file may import it, by way of timm or transformers
    model = call(spec, "model")
    if not isinstance(model, nn.Module):
        raise LaconicError(f"the model {spec} must return a torch.nn.Module; it returned a {type(model).__name__}")
    return model
