"""Training towards what another network answers: a loss that any step that trains may use.

Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2: cross-entropy
with the teacher's distribution at temperature T, weighted by T^2 so that its gradient keeps its size when T changes. Here the
divergence is taken in place of the cross-entropy (they differ by the teacher's entropy, a constant), so that a perfect student has
loss zero.
"""

import hashlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from laconic.train.detection import detection_imitation
from laconic.train.objective import Loss, classes_last, label_loss


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return `T^2 KL(softmax(teacher / T) || softmax(student / T))`, averaged over all that is answered.

    Args:
        student: logits (batch, classes), of sequences (batch, positions, classes), of maps (batch, classes, height, width).
        teacher: logits of the same shape.
        temperature: T, above 0; the higher, the more the small probabilities count.

    Returns:
        Scalar, zero when both agree up to a constant per example.
    """
    ours, theirs = (F.log_softmax(classes_last(logits).flatten(0, -2) / temperature, dim=-1) for logits in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def answer_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return what a student's outputs lose against a teacher's, of the kind that the labels are: zero where they are the same.

    Args:
        student: float outputs, as in `label_loss`.
        teacher: of the same shape.
        labels: of the same examples; only their kind is looked at.
        temperature: T of classes; boxes have none.
    """
    return detection_imitation(student, teacher) if labels.is_floating_point() else softened_divergence(student, teacher, temperature)


def response_loss(teacher: nn.Module, temperature: float, alpha: float) -> Loss:
    """Return the loss `alpha answer_loss + (1 - alpha) label_loss` against a teacher, which is run without gradient."""

    def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            target = teacher(inputs).float()
        outputs = model(inputs).float()
        return alpha * answer_loss(outputs, target, labels, temperature) + (1 - alpha) * label_loss(outputs, labels)

    loss.__dict__["teacher"] = fingerprint(teacher)  # so that a checkpoint of another teacher's training is not gone on with
    return loss


def fingerprint(network: nn.Module) -> str:
    """Return a checksum of all tensors of a network with their names."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
