"""Quantization: fewer bits for weights and activations."""

from laconic.quantize.static import Static
from laconic.quantize.weight_only import WeightOnly

__all__ = ["Static", "WeightOnly"]
