"""Codes with a table of levels in [-1, 1] and a scale: binary, ternary and normal-float. Tensors in, tensors out."""

import torch
from torch import Tensor


def normal_float() -> Tensor:
    """Return the 16 levels of the 4-bit normal float, NF4: ascending from -1 to 1, one of them 0.

    They are quantiles of the normal distribution at even steps of probability from 1/2 outward, 9 on the positive side and 8 on the
    negative one, which share the 0, divided by the largest (T. Dettmers, A. Pagnoni, A. Holtzman, L. Zettlemoyer, "QLoRA: Efficient
    Finetuning of Quantized LLMs", NeurIPS 2023, section 3; the values are printed in appendix E). The outermost probability, which the
    text leaves open, is that of the authors' program: half a step from the end, the mean of that for 15 and for 16 steps.
    """
    outermost = 1 - (1 / 30 + 1 / 32) / 2
    positive, negative = (torch.special.ndtri(torch.linspace(0.5, outermost, count, dtype=torch.float64)) for count in (9, 8))
    levels: Tensor = torch.cat([-negative.flip(0)[:-1], positive]) / positive[-1]
    return levels.float()


def nearest(values: Tensor, levels: Tensor) -> Tensor:
    """Return the position of the nearest of the ascending `levels` (of equally near ones the higher), of the shape of `values`."""
    return torch.bucketize(values.contiguous(), (levels[1:] + levels[:-1]) / 2, right=True)


def binary_scale(rows: Tensor, keep: Tensor | None = None) -> Tensor:
    """Return, for each row w of `(rows, n)`, the a of least squared error `|w - a sign(w)|^2`: the mean magnitude.

    Source: M. Rastegari, V. Ordonez, J. Redmon, A. Farhadi, "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural
    Networks", ECCV 2016, eq. 6.

    Args:
        rows: the weights.
        keep: True where an entry counts, `(rows, n)`; None: all do.
    """
    if keep is None:
        return rows.abs().mean(1)
    return (rows.abs() * keep).sum(1) / keep.sum(1).clamp_min(1)


def ternary_scale(rows: Tensor) -> Tensor:
    """Return, for each row w of `(rows, n)`, the a of least squared error `|w - a t|^2` over all t of entries -1, 0 and 1.

    With the k largest magnitudes in t the best a is their mean, which leaves `|w|^2 - (sum of the k)^2 / k` (F. Li, B. Liu, X. Wang,
    B. Zhang, J. Yan, "Ternary Weight Networks", arXiv:1605.04711, section 2). The source approximates the threshold by 0.7 times the
    mean magnitude; here every k is tried, so this is the optimum, and there the k are the entries that are nearer to a than to 0.
    """
    sums = rows.abs().double().sort(dim=1, descending=True).values.cumsum(1)
    count = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    best = (sums**2 / count).argmax(1, keepdim=True)
    return (sums.gather(1, best) / (best + 1))[:, 0].to(rows.dtype)
