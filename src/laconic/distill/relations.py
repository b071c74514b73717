"""What a student may learn from how examples stand to each other in its teacher: losses of two batches of embeddings, as pure functions.

Embeddings are `(n, any length)`, one a row; both networks' have lengths of their own.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-12


def distances(student: Tensor, teacher: Tensor) -> Tensor:
    """Return Huber's loss of the distances between the examples of a batch, each network's divided by their mean.

    Source: W. Park, D. Kim, Y. Lu, M. Cho, "Relational Knowledge Distillation", CVPR 2019, equations 6 to 8. A batch of one example has
    no distances, and loses nothing.
    """
    ours, theirs = (_distances(rows) for rows in (student, teacher))
    return F.smooth_l1_loss(ours, theirs) if ours.numel() else student.sum() * 0


def _distances(rows: Tensor) -> Tensor:
    """Return the distances of all pairs divided by their mean, (pairs,)."""
    first, second = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
    found = ((rows[first] - rows[second]).square().sum(-1) + _TINY).sqrt()
    return found / found.mean() if found.numel() else found


def angles(student: Tensor, teacher: Tensor) -> Tensor:
    """Return Huber's loss of the cosines of the angles that every three examples of a batch form.

    Source: W. Park, D. Kim, Y. Lu, M. Cho, "Relational Knowledge Distillation", CVPR 2019, equations 9 and 10. It grows with the cube of
    the batch.
    """
    return F.smooth_l1_loss(_cosines(student), _cosines(teacher))


def _cosines(rows: Tensor) -> Tensor:
    """Return the cosine at j of the angle i j k, (n, n, n) as [j, i, k]; 0 where i or k is j itself."""
    ways = rows[None] - rows[:, None]  # from j to i
    ways = ways / (ways.square().sum(-1, keepdim=True) + _TINY).sqrt()
    return ways @ ways.transpose(1, 2)


def contrast(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return how badly each example is told from the others of its batch across the networks: cross-entropy of cosines, both ways.

    The student's embedding of an example is to be nearer to the teacher's of the same example than to those of the others, and the other
    way round; what is maximised is a lower bound of the mutual information of both embeddings.

    Source: Y. Tian, D. Krishnan, P. Isola, "Contrastive Representation Distillation", ICLR 2020, section 3.1. There a critic tells pairs
    from 16,384 kept embeddings of earlier batches one by one; here the others of the batch are told apart together (A. van den Oord,
    Y. Li, O. Vinyals, "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748, equation 4).

    Args:
        student: (n, length), behind its adapter.
        teacher: (n, the same length), behind its adapter.
        temperature: what cosines are divided by, above 0.
    """
    cosines = F.normalize(student, dim=-1) @ F.normalize(teacher, dim=-1).T / temperature
    own = torch.arange(len(cosines), device=cosines.device)
    return (F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own)) / 2
