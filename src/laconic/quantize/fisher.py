"""How much the loss depends on each value inside a network: the diagonal of the Fisher information.

Source: Y. Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", ICLR 2021, eq. 10: the squares of
the loss's derivatives. Without labels, those of labels drawn from the network's own answers, in expectation: diag(J' F J) with J the
derivative of the logits and F = diag(p) - p p', probed by random signs as in `curvature`.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from laconic.program.observe import Piece
from laconic.quantize.curvature import root_times
from laconic.train import classes_last, label_loss

Fisher: TypeAlias = Literal["labels", "predictions"]
"""What the loss compares the answers with: the labels of the calibration examples, or the network's own answers."""

_PROBES = 4  # random signs for each example
_AT_ONCE = 32  # examples


def fisher_information(rest: Piece, values: Tensor, labels: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return the information in each value of each example, in units of their mean.

    Args:
        rest: computes the logits from the values, with their classes where `train.label_loss` has them.
        values: inside the float network, (examples, ...).
        labels: class numbers; None: the network's own answers.
        generator: of the signs.
    """
    found = list[Tensor]()
    for start in range(0, len(values), _AT_ONCE):
        part = values[start : start + _AT_ONCE].detach().requires_grad_()
        with torch.enable_grad():
            logits = rest(part)
        found.append(_of_answers(part, logits, generator) if labels is None else _of_labels(part, logits, labels[start : start + _AT_ONCE]))
    information = torch.cat(found)
    return information / information.mean().clamp_min(torch.finfo(information.dtype).tiny)


def _of_labels(values: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    with torch.enable_grad():
        loss = label_loss(logits, labels.to(logits.device)) * len(values)
    return torch.autograd.grad(loss, values)[0].square()


def _of_answers(values: Tensor, logits: Tensor, generator: torch.Generator) -> Tensor:
    logits = classes_last(logits)
    probabilities, found = logits.detach().softmax(-1), torch.zeros_like(values)
    for _ in range(_PROBES):
        signs = torch.randint(2, logits.shape, generator=generator).to(logits) * 2 - 1
        [slopes] = torch.autograd.grad(logits, values, root_times(probabilities, signs), retain_graph=True)
        found += slopes.square() / _PROBES
    return found
