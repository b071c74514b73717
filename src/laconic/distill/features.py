"""What a student may learn from values inside its teacher: losses of two features of one place, as pure functions.

A feature is `(n, channels, positions)`: channels second, all positions (pixels, times, tokens) in one axis. Each loss is zero for a
student that has the teacher's feature.
"""

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean square difference, as a share of the teacher's mean square, so that the scale of features does not matter.

    Source: A. Romero, N. Ballas, S. Kahou, A. Chassang, C. Gatta, Y. Bengio, "FitNets: Hints for Thin Deep Nets", ICLR 2015,
    equation 3 (there half the sum of squares, not divided).

    Args:
        student: (n, channels, positions), behind its adapter.
        teacher: the same shape.
    """
    return (student - teacher).square().mean() / teacher.square().mean().clamp_min(1e-12)


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over examples and positions of the square difference of attention maps: where in the picture channels are active.

    A map is the sum of squares over the channels, divided by its norm over the positions.

    Source: S. Zagoruyko, N. Komodakis, "Paying More Attention to Attention", ICLR 2017, equation 2 with p = 2; the mean over the
    positions is that of the authors' code.

    Args:
        student: (n, any channels, positions).
        teacher: (n, any channels, positions).
    """
    ours, theirs = (F.normalize(feature.square().mean(1), dim=-1) for feature in (student, teacher))
    return (ours - theirs).square().mean()


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean square difference of how alike the examples of a batch are: rows of `F F^T`, each divided by its norm.

    Source: F. Tung, G. Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, equations 2 to 4.

    Args:
        student: (n, any channels, any positions).
        teacher: (n, any channels, any positions).
    """
    flat = (feature.flatten(1) for feature in (student, teacher))
    ours, theirs = (F.normalize(rows @ rows.T, dim=-1) for rows in flat)
    return (ours - theirs).square().mean()


def pyramid(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean square difference of maps and of their means over coarser and coarser squares, weighed 1, 1/2, 1/4, ...

    Source: P. Chen, S. Liu, H. Zhao, J. Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021, section 3.4 (the hierarchical
    context loss, squares of 4, 2 and 1 to a side as in the authors' code).

    Args:
        student: (n, channels, height, width).
        teacher: the same shape.
    """
    lost, whole, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for side in (4, 2, 1):
        if side < min(student.shape[-2:]):
            weight /= 2
            lost = lost + weight * F.mse_loss(F.adaptive_avg_pool2d(student, side), F.adaptive_avg_pool2d(teacher, side))
            whole += weight
    return lost / whole


def as_image(feature: Tensor, height: int | None = None) -> Tensor:
    """Return a feature with its positions as rows and columns, (n, channels, height, width); None: as a square."""
    height = height or isqrt(feature.shape[-1])
    return feature.reshape(*feature.shape[:2], height, -1)


def flattened(value: Tensor, axis: int) -> Tensor:
    """Return what a layer computes as a feature, (n, channels, positions).

    Args:
        value: (n, ...).
        axis: of the channels.
    """
    moved = value.movedim(axis, 1)
    return moved.reshape(*moved.shape[:2], -1) if moved.ndim > 2 else torch.unsqueeze(moved, -1)
