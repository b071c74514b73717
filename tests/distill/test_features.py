"""Each loss of features against a statement of its own; zero for a perfect student; finite at the edges."""

import numpy as np
import pytest
import torch

from laconic.distill.features import as_image, attention_transfer, flattened, hint, pyramid, similarity

LOSSES = {
    "hint": hint,
    "attention": attention_transfer,
    "similarity": similarity,
    "pyramid": lambda s, t: pyramid(as_image(s), as_image(t)),
}


def feature(channels=3, positions=64, examples=4, seed=0):
    return torch.randn(examples, channels, positions, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_student_loses_nothing(name):
    teacher = feature()
    assert float(LOSSES[name](teacher.clone(), teacher)) == pytest.approx(0, abs=1e-7)
    assert float(LOSSES[name](feature(seed=1), teacher)) > 1e-4


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", ["zeros", "same", "one example", "teacher of zeros"])
def test_gradients_are_finite_at_the_edges(name, case):
    teacher = {"teacher of zeros": torch.zeros(4, 3, 64), "one example": feature(examples=1)}.get(case, feature())
    student = {"zeros": torch.zeros_like(teacher), "same": teacher.clone()}.get(case, torch.randn_like(teacher)).requires_grad_()
    lost = LOSSES[name](student, teacher)
    lost.backward()
    assert torch.isfinite(lost)
    assert torch.isfinite(student.grad).all()


def test_a_hint_is_a_share_of_the_teachers_size():
    student, teacher = feature(), feature(seed=1)
    wanted = ((student - teacher) ** 2).sum() / (teacher**2).sum()
    assert float(hint(student, teacher)) == pytest.approx(float(wanted), rel=1e-5)
    assert float(hint(10 * student, 10 * teacher)) == pytest.approx(float(wanted), rel=1e-5)


def test_attention_by_hand_and_with_other_channels():
    student, teacher = feature(channels=2), feature(channels=5, seed=1)
    maps = []
    for each in (student, teacher):
        squares = (each.double().numpy() ** 2).sum(1)
        maps.append(squares / np.sqrt((squares**2).sum(1, keepdims=True)))
    assert float(attention_transfer(student, teacher)) == pytest.approx(((maps[0] - maps[1]) ** 2).mean(), rel=1e-5)


def test_similarity_by_hand_and_with_other_shapes():
    student, teacher = feature(2, 9), feature(5, 4, seed=1)
    rows = []
    for each in (student, teacher):
        flat = each.flatten(1).double().numpy()
        alike = np.array([[one @ other for other in flat] for one in flat])
        rows.append(alike / np.sqrt((alike**2).sum(1, keepdims=True)))
    assert float(similarity(student, teacher)) == pytest.approx(((rows[0] - rows[1]) ** 2).sum() / len(student) ** 2, rel=1e-5)


def test_a_pyramid_weighs_the_map_and_its_means_over_ever_larger_squares():
    student, teacher = (feature(2, 64, seed=seed).view(4, 2, 8, 8) for seed in (0, 1))
    apart, wanted, whole = (student - teacher).double(), 0.0, 0.0
    for side, weight in ((8, 1.0), (4, 0.5), (2, 0.25), (1, 0.125)):
        square = 8 // side
        means = apart.view(4, 2, side, square, side, square).mean((3, 5))
        wanted, whole = wanted + weight * float((means**2).mean()), whole + (weight if side < 8 else 0)
    assert float(pyramid(student, teacher)) == pytest.approx(wanted / (1 + whole), rel=1e-5)


@pytest.mark.parametrize(("shape", "axis", "wanted"), [((2, 5, 3, 4), 1, (2, 5, 12)), ((2, 7, 5), 2, (2, 5, 7)), ((2, 5), 1, (2, 5, 1))])
def test_features_have_channels_second_and_positions_in_one_axis(shape, axis, wanted):
    value = torch.arange(float(np.prod(shape))).view(shape)
    flat = flattened(value, axis)
    assert tuple(flat.shape) == wanted
    torch.testing.assert_close(flat[1, 3], value.movedim(axis, 1)[1, 3].reshape(-1))
