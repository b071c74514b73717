import pytest
import torch

from laconic.measure.detection import overlap
from laconic.train.detection import (
    assigned,
    averaged_detections,
    detection_imitation,
    detection_loss,
    focal,
    foreground,
    generalized_overlap,
)

NOTHING = [-1.0, 0.0, 0.0, 0.0, 0.0]


def test_cells_near_the_middle_of_a_box_find_it_and_of_several_the_smallest():
    boxes = torch.tensor([[[3, 0.0, 0.0, 1.0, 1.0], [1, 0.25, 0.25, 0.5, 0.625], NOTHING], [NOTHING] * 3])
    classes, distances = assigned(boxes, 8, 8)
    assert (classes[1] == -1).all()
    assert (distances[1] == 0).all()
    for row in range(8):
        for column in range(8):
            x, y = column + 0.5, row + 0.5
            in_small = 2 < x < 4 and 2 < y < 5 and abs(x - 3) < 1.5 and abs(y - 3.5) < 1.5
            in_large = abs(x - 4) < 1.5 and abs(y - 4) < 1.5
            expected = 1 if in_small else 3 if in_large else -1
            assert classes[0, row, column] == expected
            left, top, right, bottom = (2, 2, 4, 5) if in_small else (0, 0, 8, 8)
            if expected >= 0:
                assert distances[0, :, row, column].tolist() == pytest.approx([x - left, y - top, right - x, bottom - y])
    assert foreground(boxes, 8, 8)[0].all()
    assert foreground(boxes[:, 1:], 8, 8)[0].sum() == 2 * 3
    assert not foreground(boxes, 8, 8)[1].any()
    nowhere, _ = assigned(boxes[:, :0], 8, 8)
    assert (nowhere == -1).all()


def test_focal_loss_is_that_of_its_equation():
    logits, classes = torch.randn(2, 3, 2, 2), torch.tensor([[[0, -1], [2, 1]], [[-1, -1], [0, -1]]])
    expected = 0.0
    for image in range(2):
        for kind in range(3):
            for row in range(2):
                for column in range(2):
                    p = torch.sigmoid(logits[image, kind, row, column]).item()
                    right = classes[image, row, column] == kind
                    chance, alpha = (p, 0.25) if right else (1 - p, 0.75)
                    expected -= alpha * (1 - chance) ** 2 * torch.log(torch.tensor(chance)).item()
    assert focal(logits, classes).item() == pytest.approx(expected, rel=1e-5)


def test_generalized_overlap_is_overlap_less_the_empty_share_of_the_hull():
    first, second = torch.rand(20, 4) + 0.05, torch.rand(20, 4) + 0.05
    found = generalized_overlap(first, second)
    for one, other, value in zip(first.tolist(), second.tolist(), found.tolist(), strict=True):
        boxes = [(-left, -top, right, bottom) for left, top, right, bottom in (one, other)]
        share = overlap(torch.tensor([boxes[0]]).numpy(), torch.tensor([boxes[1]]).numpy())[0, 0]
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes]
        hull = (max(boxes[0][2], boxes[1][2]) - min(boxes[0][0], boxes[1][0])) * (
            max(boxes[0][3], boxes[1][3]) - min(boxes[0][1], boxes[1][1])
        )
        either = sum(areas) / (1 + share)
        assert value == pytest.approx(share - (hull - either) / hull, abs=1e-5)
    assert generalized_overlap(first, first).tolist() == pytest.approx([1.0] * 20)


def test_a_map_that_says_what_is_there_loses_little_and_learning_makes_it_so():
    boxes = torch.tensor([[[1, 0.25, 0.25, 0.5, 0.75], [0, 0.5, 0.0, 1.0, 0.5]], [[0, 0.0, 0.0, 0.5, 0.5], NOTHING]])
    classes, distances = assigned(boxes, 8, 8)
    outputs = torch.cat([torch.full((2, 2, 8, 8), -12.0), distances], 1)
    for image, row, column in (classes >= 0).nonzero().tolist():
        outputs[image, classes[image, row, column], row, column] = 12.0
    assert detection_loss(outputs, boxes).item() < 1e-4
    learned = torch.full((2, 6, 8, 8), 0.5).requires_grad_()
    optimizer = torch.optim.Adam([learned], 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        detection_loss(torch.cat([learned[:, :2], learned[:, 2:].relu()], 1), boxes).backward()
        optimizer.step()
    assert detection_loss(torch.cat([learned[:, :2], learned[:, 2:].relu()], 1), boxes).item() < 0.05
    nothing = torch.tensor([[NOTHING]])
    loss = detection_loss(torch.zeros(1, 6, 8, 8, requires_grad=True), nothing)
    loss.backward()
    assert torch.isfinite(loss)


def test_imitation_is_zero_for_the_same_map_and_grows_with_what_differs():
    teacher = torch.cat([torch.randn(2, 3, 4, 4), torch.rand(2, 4, 4, 4) + 0.5], 1)
    assert detection_imitation(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    moved, unsure = teacher.clone(), teacher.clone()
    moved[:, -4:] += 0.5
    unsure[:, :3] *= 0.5
    for student in (moved, unsure):
        student.requires_grad_()
        loss = detection_imitation(student, teacher)
        loss.backward()
        assert loss.item() > 0.01
        assert torch.isfinite(student.grad).all()


def test_detectors_are_averaged_in_probabilities_and_distances():
    maps = [torch.cat([torch.randn(1, 2, 3, 3), torch.rand(1, 4, 3, 3)], 1) for _ in range(2)]
    mean = averaged_detections(maps)
    torch.testing.assert_close(mean[:, :2].sigmoid(), (maps[0][:, :2].sigmoid() + maps[1][:, :2].sigmoid()) / 2)
    torch.testing.assert_close(mean[:, 2:], (maps[0][:, 2:] + maps[1][:, 2:]) / 2)
