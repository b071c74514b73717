"""Networks by name, the user's own, and weights from a file."""

from laconic.zoo.inputs import example
from laconic.zoo.models import MODELS, load
from laconic.zoo.weights import load_weights

__all__ = ["MODELS", "example", "load", "load_weights"]
