"""Networks as programs: captured once, then read, represented, edited, saved."""

from laconic.program.capture import Example, capture, only_in_training
from laconic.program.file import load, save
from laconic.program.fold import fold_batch_norm
from laconic.program.forms import Half, Mask, Quantizer, Representation
from laconic.program.pack import packed, packed_bytes
from laconic.program.program import Input, Program, clone, dense_state, example_of, first_output, place, read, tidy
from laconic.program.represent import bake, represent, represent_edge
from laconic.program.scaled import Codebook, Uniform
from laconic.program.select import Weight, weights
from laconic.program.shared import Shared
from laconic.program.write_back import write_back

__all__ = [
    "Codebook",
    "Example",
    "Half",
    "Input",
    "Mask",
    "Program",
    "Quantizer",
    "Representation",
    "Shared",
    "Uniform",
    "Weight",
    "bake",
    "capture",
    "clone",
    "dense_state",
    "example_of",
    "first_output",
    "fold_batch_norm",
    "load",
    "only_in_training",
    "packed",
    "packed_bytes",
    "place",
    "read",
    "represent",
    "represent_edge",
    "save",
    "tidy",
    "weights",
    "write_back",
]
