"""Two layers in place of one, by the singular values of its weight as its outputs see them.

Source: E. Denton, W. Zaremba, J. Bruna, Y. LeCun, R. Fergus, "Exploiting Linear Structure Within Convolutional Networks for Efficient
Evaluation", NeurIPS 2014; the whitening and the two ways for convolutions are cited in `numeric.decomposition` and `kinds`.
"""

from typing import Literal

from laconic.context import Context
from laconic.factorize.factorized import Factorized, factorize
from laconic.program import Program
from laconic.step import step


@step
class SVD(Factorized):
    """Take linear layers and convolutions apart into two of low rank.

    Smaller; faster where the rank is well below a third of the channels, or, with `split: spatial`, of kernels of 3 x 3 and more.
    """

    split: Literal["channels", "spatial"] = "channels"  # convolutions: to few channels and back; or a column, then a row of the kernel

    def __call__(self, program: Program, context: Context) -> Program:
        """Take apart in place."""
        return factorize(program, self, ("svd",) if self.split == "channels" else ("spatial",), context)
