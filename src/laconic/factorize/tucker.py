"""Three layers in place of a convolution: fewer input channels, a smaller kernel, back to all output channels.

Source: Y.-D. Kim, E. Park, S. Yoo, T. Choi, L. Yang, D. Shin, "Compression of Deep Convolutional Neural Networks for Fast and Low Power
Mobile Applications", ICLR 2016.
"""

from laconic.context import Context
from laconic.factorize.factorized import Factorized, factorize
from laconic.program import Program
from laconic.step import step


@step
class Tucker(Factorized):
    """Take convolutions apart by Tucker-2; linear and pointwise layers are left whole.

    Smaller; faster where channels are many, for three operations take the place of one.
    """

    def __call__(self, program: Program, context: Context) -> Program:
        """Take apart in place."""
        return factorize(program, self, ("tucker",), context)
