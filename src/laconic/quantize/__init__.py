"""Quantization: fewer bits for weights and activations."""

from laconic.quantize.entropy_penalized import EntropyPenalized
from laconic.quantize.mixed import Mixed
from laconic.quantize.static import Static
from laconic.quantize.training import Training
from laconic.quantize.weight_only import WeightOnly

__all__ = ["EntropyPenalized", "Mixed", "Static", "Training", "WeightOnly"]
