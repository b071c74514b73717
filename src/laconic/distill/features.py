"""What a student may learn from values inside its teacher: losses of two features of one place, as pure functions.

A feature is `(n, channels, positions)`: channels second, all positions (pixels, times, tokens) in one axis. Each loss is zero for a
student that has the teacher's feature.
"""

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from laconic.train.imitation import softened_divergence


def hint(student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
    """Return the mean square difference, as a share of the teacher's mean square, so that the scale of features does not matter.

    Source: A. Romero, N. Ballas, S. Kahou, A. Chassang, C. Gatta, Y. Bengio, "FitNets: Hints for Thin Deep Nets", ICLR 2015,
    equation 3 (there half the sum of squares, not divided); with `where`: T. Wang, L. Yuan, X. Zhang, J. Feng, "Distilling Object
    Detectors with Fine-grained Feature Imitation", CVPR 2019, equation 2 (there near the anchors of things, here in their boxes).

    Args:
        student: (n, channels, positions), behind its adapter.
        teacher: the same shape.
        where: the positions that count, (n, positions), bool; None: all.
    """
    weight = torch.ones_like(teacher[:, :1]) if where is None else where[:, None].to(teacher)
    apart, size = ((value.square() * weight).sum() for value in (student - teacher, teacher))
    return apart / size.clamp_min(1e-12)


def channel_wise(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return `T^2 KL` of where each channel is active, averaged over examples and channels: a softmax over the positions.

    Source: C. Shu, Y. Liu, J. Gao, Z. Yan, C. Shen, "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, equations 2
    and 3.

    Args:
        student: (n, channels, positions).
        teacher: the same shape.
        temperature: T, above 0.
    """
    return softened_divergence(student, teacher, temperature)


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
