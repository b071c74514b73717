"""How much the loss depends on each weight: the diagonal of the Fisher information, from inputs without labels.

Source: J. Martens, "New Insights and Perspectives on the Natural Gradient Method", Journal of Machine Learning Research 21, 2020,
section 5: the mean square, over examples, of the derivatives of the log-likelihood of labels that are drawn from the network's own answers.
The squared error of each weight is weighed with it, as by Y. Choi, M. El-Khamy, J. Lee, "Towards the Limit of Network Quantization",
ICLR 2017, who take the Hessian's diagonal, which this estimates.
"""

import torch
from torch import Tensor

from laconic.program import Program, first_output
from laconic.program.represent import stored_tensor
from laconic.train import classes_last

_LEAST = 0.01  # of the mean, so that a weight that no input reaches has an importance too


def importance(program: Program, names: list[str], inputs: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Return the importance of every entry of tensors; half of it times a squared error is the growth of the loss, in nats.

    Args:
        program: gives logits, classes last; its tensors have no quantizers yet.
        names: of the tensors.
        inputs: calibration inputs, (examples, ...).
        generator: draws the labels.

    Returns:
        One tensor for each name; what the network does not learn by derivatives has the same importance everywhere.
    """
    stored = [stored_tensor(program.eval(), name) for name in names]
    learned = [tensor for tensor in stored if tensor.requires_grad]
    found = {tensor: torch.zeros_like(tensor, dtype=torch.float64, requires_grad=False) for tensor in stored}
    for example in inputs.split(1):
        with torch.enable_grad():
            output = program(example)
            logits = first_output(output)
            chances = classes_last(logits.float()).log_softmax(-1).flatten(0, -2)
        labels = torch.multinomial(chances.detach().exp().cpu(), 1, generator=generator).to(chances.device)
        slopes = torch.autograd.grad(chances.gather(1, labels).sum(), learned, allow_unused=True) if chances.requires_grad else ()
        for tensor, slope in zip(learned, slopes, strict=False):
            if slope is not None:
                found[tensor] += slope.double().square() / len(inputs)
    mean = sum(float(each.sum()) for each in found.values()) / sum(each.numel() for each in found.values())
    least = max(_LEAST * mean, torch.finfo(torch.float32).tiny)
    return [found[tensor] + least for tensor in stored]
