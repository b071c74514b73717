"""What a detector is trained by: which cell of its map is to find which thing, and what is lost where it does not.

Source: Z. Tian, C. Shen, H. Chen, T. He, "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, section 3.1, with the sampling
of a thing's middle from the authors' later version (TPAMI 2020); T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollar, "Focal Loss for
Dense Object Detection", ICCV 2017, equation 5; H. Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, algorithm 1. There
is one map here, not a pyramid of them, and no branch of centre-ness. What a student takes from a teacher: L. Yang et al., "Bridging
Cross-task Protocol Inconsistency for Distillation in Dense Object Detection", ICCV 2023 (each class by itself, weighed by how far apart
the two are; boxes by their overlap, where the teacher sees something).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_RADIUS = 1.5  # cells from the middle of a thing that are to find it
_ALPHA, _GAMMA = 0.25, 2.0
_LARGE = 1e9


def assigned(boxes: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Say what each cell of a map is to find.

    A cell finds a thing where its middle lies in the box and near the box's middle; of several things the smallest.

    Args:
        boxes: (n, most, 5), class, left, top, right, bottom as shares of the picture; class -1 fills up.
        rows: of the map.
        columns: of the map.

    Returns:
        The class of each cell (n, rows, columns), int64, -1 where it finds nothing; and how far the sides of its thing are from its
        middle, in cells: left, top, right, bottom (n, 4, rows, columns), 0 where there is none.
    """
    if not boxes.shape[1]:
        return boxes.new_full((len(boxes), rows, columns), -1).long(), boxes.new_zeros(len(boxes), 4, rows, columns)
    sides = _sides(boxes, rows, columns)
    left, top, right, bottom = sides.unbind(2)
    near = ((left - right).abs() < 2 * _RADIUS) & ((top - bottom).abs() < 2 * _RADIUS)
    areas = ((left + right) * (top + bottom)).masked_fill(~(_inside(boxes, sides) & near), _LARGE)
    least, chosen = areas.min(1)
    found = least < _LARGE
    classes = boxes[..., 0].gather(1, chosen.flatten(1)).view_as(chosen).long().masked_fill(~found, -1)
    distances = sides.gather(1, chosen[:, None, None].expand(-1, 1, 4, -1, -1))[:, 0] * found[:, None]
    return classes, distances


def focal(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the sum of the focal losses of all cells and classes, alpha 0.25 and gamma 2.

    Args:
        logits: (n, classes, rows, columns).
        classes: (n, rows, columns), -1 where there is nothing.
    """
    wanted = F.one_hot(classes.clamp_min(0), logits.shape[1]).movedim(-1, 1) * (classes >= 0)[:, None]
    wanted = wanted.to(logits)
    chance = logits.sigmoid()
    missing = chance * (1 - wanted) + (1 - chance) * wanted
    weight = missing**_GAMMA * (_ALPHA * wanted + (1 - _ALPHA) * (1 - wanted))
    return (weight * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")).sum()


def generalized_overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return the generalized intersection over union of boxes around one point each, in [-1, 1].

    Args:
        first: how far left, top, right and bottom are from the point, (m, 4), 0 or more.
        second: of the same points.
    """

    def area(sides: Tensor) -> Tensor:
        left, top, right, bottom = sides.unbind(-1)
        return (left + right) * (top + bottom)

    inside = area(torch.minimum(first, second))
    either = (area(first) + area(second) - inside).clamp_min(1e-9)
    hull = area(torch.maximum(first, second)).clamp_min(1e-9)
    return inside / either - (hull - either) / hull


def detection_loss(outputs: Tensor, boxes: Tensor) -> Tensor:
    """Return the focal loss of the classes and the loss of the boxes, both per cell that is to find something.

    Args:
        outputs: (n, classes + 4, rows, columns), float: logits, then distances in cells, 0 or more.
        boxes: (n, most, 5), see `assigned`.
    """
    classes, distances = assigned(boxes, *outputs.shape[2:])
    found = classes >= 0
    count = found.sum().clamp_min(1)
    ours, theirs = (each.movedim(1, -1)[found] for each in (outputs[:, -4:], distances))
    return (focal(outputs[:, :-4], classes) + (1 - generalized_overlap(ours, theirs)).sum()) / count


def detection_imitation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return what a student's map loses against a teacher's, per thing that the teacher sees; zero where they are the same.

    Args:
        student: (n, classes + 4, rows, columns), float: logits, then distances in cells, 0 or more.
        teacher: of the same shape.
    """
    wanted = teacher[:, :-4].sigmoid()
    apart = (student[:, :-4].sigmoid() - wanted).abs()
    classes = (apart * F.binary_cross_entropy_with_logits(student[:, :-4], wanted, reduction="none")).sum()
    seen = wanted.amax(1)
    ours, theirs = (each[:, -4:].movedim(1, -1).flatten(0, -2) for each in (student, teacher))
    boxes = (seen.flatten() * (1 - generalized_overlap(ours, theirs))).sum()
    return (classes + boxes) / seen.sum().clamp_min(1)


def averaged_detections(answers: list[Tensor]) -> Tensor:
    """Return the map whose probabilities and distances are the means of those of several detectors, (n, classes + 4, rows, columns)."""
    chances = torch.stack([each[:, :-4].sigmoid() for each in answers]).mean(0)
    return torch.cat([chances.logit(1e-7), torch.stack([each[:, -4:] for each in answers]).mean(0)], 1)


def foreground(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """Return for each cell whether its middle lies in a box, (n, rows, columns), bool.

    Args:
        boxes: (n, most, 5), see `assigned`.
        rows: of the map.
        columns: of the map.
    """
    return _inside(boxes, _sides(boxes, rows, columns)).any(1)


def _sides(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """Return how far left, top, right and bottom of each box are from each cell's middle, in cells, (n, most, 4, rows, columns)."""
    left, top, right, bottom = ((boxes[..., 1:] * boxes.new_tensor([columns, rows, columns, rows]))[:, :, None, None]).unbind(-1)
    across = torch.arange(columns, device=boxes.device) + 0.5
    down = (torch.arange(rows, device=boxes.device) + 0.5)[:, None]
    return torch.stack(torch.broadcast_tensors(across - left, down - top, right - across, bottom - down), 2)


def _inside(boxes: Tensor, sides: Tensor) -> Tensor:
    """Return whether each cell's middle lies in each box, (n, most, rows, columns); in those that fill up none does."""
    return (sides.amin(2) > 0) & (boxes[:, :, :1, None] >= 0)
