"""Recurrent networks: a linear layer narrows the input, and what the gates make of it reads the narrow one.

Source: R. Prabhavalkar, O. Alsharif, A. Bruguier, I. McGraw, "On the Compression of Recurrent Neural Networks with an Application to LVCSR
Acoustic Modeling for Embedded Speech Recognition", ICASSP 2016, section 3. The state's own weights stay whole: runtimes have no operation
in which a state passes through two.
"""

from dataclasses import replace

import torch
from torch import Tensor

from laconic.factorize.channels import Channels
from laconic.factorize.ways import Stage, Subject


class Inflow(Channels):
    """A linear layer to a narrower input, and the weights of all gates behind it."""

    def fits(self, subject: Subject) -> bool:
        """Say whether it is what a recurrent network makes of its input."""
        return subject.is_recurrent

    def first(self, subject: Subject, ranks: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, list[Stage]]:
        """Return the leading directions of the inputs."""
        right, [down] = super().first(subject, ranks, generator)
        return right, [replace(down, operation="linear")]
