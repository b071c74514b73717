"""What a student may learn from the answers of its teacher: losses of two rows of logits, as pure functions.

Each is zero for a student that answers as its teacher does. All take float logits `(n, classes)` and give the mean over the examples; T is
the temperature, and T^2 keeps the size of gradients when it changes (Hinton et al., section 2).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from laconic.train.imitation import softened_divergence

_TINY = 1e-7


def standardized(logits: Tensor) -> Tensor:
    """Return logits less their mean and by their standard deviation, row by row: what is left is their pattern, not their height.

    Source: S. Sun, W. Ren, J. Li, R. Wang, X. Cao, "Logit Standardization in Knowledge Distillation", CVPR 2024, equation 9. A row of
    equal logits becomes zeros.

    Args:
        logits: (..., classes).
    """
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / centred.square().mean(-1, keepdim=True).clamp_min(_TINY**2).sqrt()


def decoupled_divergence(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, target: float, others: float) -> Tensor:
    """Return `T^2 (target TCKD + others NCKD)`: the divergence on right against wrong, and that among the wrong classes, weighed apart.

    In Hinton's loss the second is weighed by the probability that the teacher gives the wrong classes, so the surer it is the less it
    tells of how classes resemble each other.

    Source: B. Zhao, Q. Cui, R. Song, Y. Qiu, J. Liang, "Decoupled Knowledge Distillation", CVPR 2022, equations 5 to 7.

    Args:
        student: (n, classes).
        teacher: (n, classes).
        labels: (n,), the right classes.
        temperature: T, above 0.
        target: weight of right against wrong.
        others: weight of the wrong classes among themselves; of fewer than three classes there is nothing among them.
    """
    right = F.one_hot(labels, student.shape[-1]).bool()
    ours, theirs = (_right_and_wrong(logits / temperature, right) for logits in (student, teacher))
    between = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    rest = [(logits / temperature)[~right].view(len(logits), -1).log_softmax(-1) for logits in (student, teacher)]
    among = F.kl_div(rest[0], rest[1], reduction="batchmean", log_target=True) if rest[0].shape[-1] else between.new_zeros(())
    return (target * between + others * among) * temperature**2


def _right_and_wrong(logits: Tensor, right: Tensor) -> Tensor:
    """Return the logarithms of the probability of the right class and of all the others, (n, 2)."""
    whole = logits.logsumexp(-1)
    parts = [logits.masked_fill(~chosen, -torch.inf).logsumexp(-1) - whole for chosen in (right, ~right)]
    return torch.stack(parts, -1).clamp_min(torch.finfo(logits.dtype).min)  # of one class there are no others


def decorrelation(student: Tensor, teacher: Tensor, temperature: float, between: float, within: float) -> Tensor:
    """Return `T^2 (between (1 - r of the rows) + within (1 - r of the columns))` of the softened probabilities; r is Pearson's.

    Rows tell how an example stands to the classes, columns how a class stands to the examples of the batch. A student need not reach
    the teacher's probabilities, only their relations.

    Source: T. Huang, S. You, F. Wang, C. Qian, C. Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, equations 5 to 9.

    Args:
        student: (n, classes).
        teacher: (n, classes).
        temperature: T, above 0.
        between: weight of the rows.
        within: weight of the columns; a batch of one example has none.
    """
    ours, theirs = ((logits / temperature).softmax(-1) for logits in (student, teacher))
    lost = between * (1 - _correlation(ours, theirs)).mean()
    if len(ours) > 1:
        lost = lost + within * (1 - _correlation(ours.T, theirs.T)).mean()
    return lost * temperature**2


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Pearson's correlation of the rows, (n,); rows that are equal everywhere correlate with themselves alone."""
    one, other = (rows - rows.mean(-1, keepdim=True) for rows in (first, second))
    return (one * other).sum(-1).add(_TINY**2) / (_norm(one) * _norm(other)).add(_TINY**2)


def _norm(rows: Tensor) -> Tensor:
    return (rows.square().sum(-1) + _TINY**4).sqrt()


def averaged(answers: list[Tensor], temperature: float) -> Tensor:
    """Return logits whose softened probabilities are the mean of those of several teachers.

    Source: G. Hinton, O. Vinyals, J. Dean, arXiv:1503.02531, section 2 (an ensemble's arithmetic mean of probabilities).

    Args:
        answers: of each teacher, (..., classes), or maps (n, classes, height, width).
        temperature: T at which probabilities are averaged.
    """
    if len(answers) == 1:
        return answers[0]
    classes = 1 if answers[0].ndim == 4 else -1
    chances = torch.stack([(logits / temperature).log_softmax(classes) for logits in answers])
    mean: Tensor = chances.logsumexp(0) - torch.tensor(float(len(answers))).log()
    return mean * temperature


__all__ = ["averaged", "decorrelation", "decoupled_divergence", "softened_divergence", "standardized"]
