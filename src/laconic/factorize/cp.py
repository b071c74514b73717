"""A pointwise layer, one kernel to each channel and a pointwise layer in place of a convolution.

Source: V. Lebedev, Y. Ganin, M. Rakhuba, I. Oseledets, V. Lempitsky, "Speeding-up Convolutional Neural Networks Using Fine-tuned
CP-Decomposition", ICLR 2015; that it stays trainable: A.-H. Phan et al., ECCV 2020, cited in `numeric.decomposition`.
"""

from laconic.context import Context
from laconic.factorize.factorized import Factorized, factorize
from laconic.program import Program
from laconic.step import step


@step
class CP(Factorized):
    """Take convolutions apart by CP; linear and pointwise layers are left whole.

    Smallest of all at a rank; the kernels of one channel each are slow where the runtime moves more memory than it multiplies.
    """

    def __call__(self, program: Program, context: Context) -> Program:
        """Take apart in place."""
        return factorize(program, self, ("cp",), context)
