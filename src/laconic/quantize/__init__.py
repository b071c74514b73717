"""Quantization: fewer bits for weights and activations."""

from laconic.quantize.static import Static

__all__ = ["Static"]
