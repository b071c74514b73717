"""Output tuning: scales and biases of a quantized network learn together to give the outputs of the float network back.

Source: the bias tuning of I. Hubara, Y. Nahshan, Y. Hanani, R. Banner, D. Soudry, "Accurate Post Training Quantization With Small
Calibration Sets", ICML 2021, which learns the biases alone, towards the float network on the calibration inputs. Here the scales of
activations learn too (S. Esser et al., "Learned Step Size Quantization", ICLR 2020, eq. 3), and those of weights, whose codes stay. A part
of the inputs is held out: what is kept is what does best there, or the network as it was.
"""

import torch
from torch import Tensor

from laconic.program import Program, Weight
from laconic.quantize.correct import give_biases
from laconic.quantize.imitate import imitate, outputs_of, squared_error
from laconic.quantize.tunable import Tunable, output_sizes

_HELD_OUT = 4  # one of so many inputs is held out
_EXAMPLES = 32  # that tell how large the outputs of layers are
_RATE = 0.003  # of Adam: of scales as a share of them, of biases as a share of the outputs' root mean square


def tune_outputs(
    program: Program, whole: Program, chosen: list[Weight], inputs: Tensor, epochs: int, generator: torch.Generator
) -> tuple[float, float]:
    """Learn the scales and biases of a quantized program, in place.

    Args:
        program: quantized; the weights lie on their grids.
        whole: the network before.
        chosen: the quantized weights.
        inputs: calibration inputs, (examples, ...), two or more.
        epochs: over the inputs that are not held out.
        generator: which are held out, and the order of the others.

    Returns:
        The mean square error of the outputs on the inputs held out, as a share of their mean square, before and after.
    """
    layers = [reader for weight in chosen for reader in weight.readers]
    give_biases(program.eval(), layers)
    [start] = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    tunable = Tunable(program, (start, "output"), chosen, output_sizes(program, layers, inputs[:_EXAMPLES]), _RATE)
    wanted = outputs_of(whole, inputs)
    found = imitate(tunable, inputs, wanted, squared_error(wanted), len(inputs) // _HELD_OUT, epochs, generator)
    tunable.keep()
    return found
