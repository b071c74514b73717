"""What a change inside a network does to its output: the squared error, as a share of the output's square."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from laconic.program.observe import Changes, changed, rest
from laconic.program.program import Program, first_output
from laconic.program.select import Weight


def run(program: Program, inputs: Tensor, changes: Changes | None = None) -> Tensor:
    """Return the first output of a program in eval mode, with what some nodes compute changed."""
    return first_output(changed(program.eval(), (inputs,), changes or {}))


def run_on(program: Program, node: fx.Node, values: Mapping[fx.Node, Any], changes: Changes) -> Tensor:
    """Return the first output of a program of which a `stepwise` run has stopped at `node`; see `observe.rest`."""
    return first_output(rest(program, node, values, changes))


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Return the squared error as a share of the squares of what is wanted."""
    squares = wanted.double().square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    return float((found - wanted).double().square().sum() / squares)


def in_place_of(weight: Weight, value: Tensor) -> Changes:
    """Return the change that gives the readers of a weight another value."""
    operands = [each for reader in weight.readers for each in reader.all_input_nodes]
    return {each: lambda _: value for each in operands if each.op == "get_attr" and each.target == weight.name}


def parted(inputs: Tensor, examples: int) -> tuple[Tensor, Tensor]:
    """Return so many inputs, half of them at most, and the others; of one input, itself twice.

    >>> [len(part) for part in parted(torch.zeros(100, 3), 64)], [len(part) for part in parted(torch.zeros(100, 3), 10)]
    ([50, 50], [10, 90])
    """
    count = min(examples, len(inputs) // 2)
    return (inputs[:count], inputs[count:]) if count else (inputs, inputs)


def decibels(share: float) -> str:
    """Say how large noise is beside what it is in.

    >>> decibels(0.01), decibels(0.0)
    ('-20.0 dB', '-inf dB')
    """
    return f"{10 * math.log10(share) if share else -math.inf:.1f} dB"
