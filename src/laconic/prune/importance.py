"""How much a channel matters: pure functions of what is known about the channels of a group, one score per channel.

A group's channels live in several tensors. Everything that belongs to a channel is one row of a matrix `(channels, entries)`, so that each
criterion is aggregated over all slots of the group by itself.
"""

import torch
from torch import Tensor


def l1(weights: Tensor) -> Tensor:
    """Return the sum of absolute weights of every channel.

    Source: H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1.

    Args:
        weights: (channels, entries).

    Returns:
        (channels,).
    """
    return weights.abs().sum(1)


def l2(weights: Tensor) -> Tensor:
    """Return the Euclidean norm of every channel, over all layers that are coupled through it.

    Source: G. Fang, X. Ma, M. Song, M. B. Mi, X. Wang, "DepGraph: Towards Any Structural Pruning", CVPR 2023, eq. 5: the group norm.

    Args:
        weights: (channels, entries).

    Returns:
        (channels,).
    """
    return weights.square().sum(1).sqrt()


def geometric_median(weights: Tensor) -> Tensor:
    """Return the summed distance of every channel to the others: the nearer to all of them, the better they stand in for it.

    Source: Y. He, P. Liu, Z. Wang, Z. Hu, Y. Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration", CVPR 2019, eq. 8.

    Args:
        weights: (channels, entries).

    Returns:
        (channels,).
    """
    distances: Tensor = torch.cdist(weights, weights)
    return distances.sum(1)


def batch_norm_scale(scales: Tensor) -> Tensor:
    """Return the size of the factors that batch norm multiplies every channel by.

    Source: Z. Liu, J. Li, Z. Shen, G. Huang, S. Yan, C. Zhang, "Learning Efficient Convolutional Networks through Network Slimming",
    ICCV 2017, section 3.

    Args:
        scales: (channels, norms), one column per normalization that the group passes.

    Returns:
        (channels,).
    """
    return scales.abs().sum(1)


def taylor(weights: Tensor, gradients: Tensor) -> Tensor:
    """Return the squared first-order change of the loss of one batch when a channel is zeroed; averaged over batches by the caller.

    Source: P. Molchanov, A. Mallya, S. Tyree, I. Frosio, J. Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019, eq. 8:
    the sum over the entries of a group first, then the square.

    Args:
        weights: (channels, entries).
        gradients: (channels, entries), of the loss of one batch.

    Returns:
        (channels,).
    """
    return (gradients * weights).sum(1).square()


def fisher(weights: Tensor, squared_gradients: Tensor) -> Tensor:
    """Return the second-order change of the loss when a channel is zeroed, with the diagonal of the Fisher information as curvature.

    Source: Y. LeCun, J. Denker, S. Solla, "Optimal Brain Damage", NeurIPS 1989, eq. 5, the curvature by the Fisher information as in
    L. Theis, I. Korshunova, A. Tejani, F. Huszar, "Faster Gaze Prediction with Dense Networks and Fisher Pruning", arXiv:1801.05787, eq. 8.

    Args:
        weights: (channels, entries).
        squared_gradients: (channels, entries), mean of the squared gradient of the loss of one example.

    Returns:
        (channels,).
    """
    return 0.5 * (weights.square() * squared_gradients).sum(1)


def output_energy(energies: Tensor, weights: Tensor) -> Tensor:
    """Return how much of the output energy of the layers that read a channel it carries.

    Source: J.-H. Luo, J. Wu, W. Lin, "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression", ICCV 2017, eq. 6, with
    the inputs taken as uncorrelated.

    Args:
        energies: (channels, entries), mean square of the input that each weight multiplies.
        weights: (channels, entries), of the reading layers.

    Returns:
        (channels,).
    """
    return (energies * weights.square()).sum(1)


def random(channels: int, generator: torch.Generator) -> Tensor:
    """Return scores drawn uniformly from [0, 1): the control that every criterion must beat.

    Source: D. Mittal, S. Bhardwaj, M. M. Khapra, B. Ravindran, "Recovering from Random Pruning: On the Plasticity of Deep Convolutional
    Neural Networks", WACV 2018.

    Returns:
        (channels,).
    """
    return torch.rand(channels, generator=generator)
