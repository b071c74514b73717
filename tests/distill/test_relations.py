"""Each loss of relations against a statement of its own; zero for a perfect student; finite at the edges."""

import math

import pytest
import torch
from torch.nn import functional as F

from laconic.distill.relations import angles, contrast, distances


def rows(length=4, examples=5, seed=0):
    return torch.randn(examples, length, generator=torch.Generator().manual_seed(seed))


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


@pytest.mark.parametrize("loss", [distances, angles])
def test_a_student_with_the_same_relations_loses_nothing_whatever_its_scale_turn_and_place(loss):
    teacher = rows()
    turned = 3 * teacher @ torch.linalg.qr(rows(4, 4, 7))[0] + 5
    assert float(loss(turned, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(loss(rows(seed=1), teacher)) > 1e-3


@pytest.mark.parametrize("loss", [distances, angles, lambda s, t: contrast(s, t, 0.1)])
@pytest.mark.parametrize("case", ["identical examples", "same", "one example", "zeros"])
def test_gradients_are_finite_at_the_edges(loss, case):
    teacher = rows(examples=1) if case == "one example" else rows()
    student = {"identical examples": torch.ones(5, 4), "same": teacher.clone(), "zeros": torch.zeros(5, 4)}.get(case, torch.ones(1, 4))
    student.requires_grad_()
    lost = loss(student, teacher)
    lost.backward()
    assert torch.isfinite(lost)
    assert torch.isfinite(student.grad).all()


def test_distances_by_hand():
    student, teacher = rows(3), rows(6, seed=1)
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    found = []
    for each in (student, teacher):
        apart = [math.dist(each[i].tolist(), each[j].tolist()) for i, j in pairs]
        found.append([one / (sum(apart) / len(apart)) for one in apart])
    wanted = sum(huber(a - b) for a, b in zip(*found, strict=True)) / len(pairs)
    assert float(distances(student, teacher)) == pytest.approx(wanted, rel=1e-4)


def test_angles_by_hand():
    student, teacher = rows(3), rows(6, seed=1)
    total = 0.0
    for i in range(5):
        for j in range(5):
            for k in range(5):
                if j not in (i, k):
                    cosines = [F.cosine_similarity(each[i] - each[j], each[k] - each[j], dim=0) for each in (student, teacher)]
                    total += huber(float(cosines[0] - cosines[1]))
    assert float(angles(student, teacher)) == pytest.approx(total / 125, rel=1e-4)


def test_contrast_is_the_cross_entropy_of_telling_each_example_from_the_others():
    student, teacher = rows(), rows(seed=1)
    total = 0.0
    for one, other in ((student, teacher), (teacher, student)):
        for i in range(5):
            cosines = [float(F.cosine_similarity(one[i], other[j], dim=0)) / 0.2 for j in range(5)]
            total += math.log(sum(map(math.exp, cosines))) - cosines[i]
    assert float(contrast(student, teacher, 0.2)) == pytest.approx(total / 10, rel=1e-5)


def test_contrast_is_least_where_each_example_is_its_own_and_others_stand_apart():
    apart = torch.eye(5)
    assert float(contrast(apart, apart, 0.01)) == pytest.approx(0, abs=1e-6)
    assert float(contrast(apart.roll(1, 0), apart, 0.01)) > 50
