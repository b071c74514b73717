"""Each loss of answers against a statement of its own, by hand or brute force; zero for a perfect student; finite at the edges."""

import math

import pytest
import torch

from laconic.distill.responses import averaged, decorrelation, decoupled_divergence, softened_divergence, standardized

LOSSES = {
    "divergence": lambda s, t, y, heat: softened_divergence(s, t, heat),
    "decoupled": lambda s, t, y, heat: decoupled_divergence(s, t, y, heat, 1.0, 8.0),
    "correlation": lambda s, t, y, heat: decorrelation(s, t, heat, 1.0, 1.0),
    "standardized": lambda s, t, y, heat: softened_divergence(standardized(s), standardized(t), heat),
}


def batch(classes=5, examples=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: 3 * torch.randn(examples, classes, generator=generator)  # noqa: E731
    return draw(), draw(), torch.randint(classes, (examples,), generator=generator)


def softmax(row, temperature):
    raised = [math.exp(float(value) / temperature) for value in row]
    return [value / sum(raised) for value in raised]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_perfect_student_loses_nothing(name, temperature):
    _, teacher, labels = batch()
    assert float(LOSSES[name](teacher.clone(), teacher, labels, temperature)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("temperature", [1e-2, 1.0, 1e4])
@pytest.mark.parametrize("student", ["other", "same", "equal"])
def test_gradients_are_finite_at_the_edges(name, classes, temperature, student):
    other, teacher, labels = batch(classes)
    logits = {"other": other, "same": teacher.clone(), "equal": torch.zeros_like(teacher)}[student].requires_grad_()
    lost = LOSSES[name](logits, teacher, labels, temperature)
    lost.backward()
    assert torch.isfinite(lost)
    assert torch.isfinite(logits.grad).all()


def test_divergence_by_hand():
    student, teacher, _ = batch()
    by_hand = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = softmax(t, 2.0), softmax(s, 2.0)
        by_hand += 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / len(student)
    assert float(softened_divergence(student, teacher, 2.0)) == pytest.approx(by_hand, rel=1e-5)


def test_the_parts_of_the_decoupled_divergence_make_up_the_whole():
    """Equation 4 of the source: KL = TCKD + (1 - p of the right class) NCKD, example by example."""
    student, teacher, labels = batch()
    for s, t, y in zip(student, teacher, labels, strict=True):
        rows = (s[None], t[None], y[None], 3.0)
        wrong = 1 - softmax(t, 3.0)[int(y)]
        whole = float(softened_divergence(s[None], t[None], 3.0))
        parts = float(decoupled_divergence(*rows, 1.0, 0.0)) + wrong * float(decoupled_divergence(*rows, 0.0, 1.0))
        assert parts == pytest.approx(whole, rel=1e-4)


def test_decoupled_divergence_by_hand():
    student, teacher, labels = batch()
    target = others = 0.0
    for s, t, y in zip(student, teacher, labels.tolist(), strict=True):
        p, q = softmax(t, 2.0), softmax(s, 2.0)
        target += p[y] * math.log(p[y] / q[y]) + (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y]))
        rest = [(a / (1 - p[y]), b / (1 - q[y])) for place, (a, b) in enumerate(zip(p, q, strict=True)) if place != y]
        others += sum(a * math.log(a / b) for a, b in rest)
    wanted = 4 * (0.7 * target + 5 * others) / len(labels)
    assert float(decoupled_divergence(student, teacher, labels, 2.0, 0.7, 5.0)) == pytest.approx(wanted, rel=1e-4)


def test_decorrelation_by_numpy():
    import numpy as np

    student, teacher, _ = batch()
    p, q = (torch.softmax(each / 1.5, 1).double().numpy() for each in (student, teacher))
    rows = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    assert float(decorrelation(student, teacher, 1.5, 2.0, 0.5)) == pytest.approx(2.25 * (2 * rows + 0.5 * columns), rel=1e-4)


def test_decorrelation_does_not_mind_another_scale_of_probabilities():
    """A student whose probabilities are a linear function of the teacher's, row by row and alike, correlates fully."""
    chances = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])
    flatter = 0.5 * chances + 0.5 / 3
    assert float(decorrelation(flatter.log(), chances.log(), 1.0, 1.0, 1.0)) == pytest.approx(0, abs=1e-5)
    assert float(softened_divergence(flatter.log(), chances.log(), 1.0)) > 0.05


def test_standardized_logits_have_mean_0_and_spread_1_and_forget_height_and_scale():
    logits, _, _ = batch()
    rows = standardized(logits)
    torch.testing.assert_close(rows.mean(-1), torch.zeros(len(rows)), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.std(-1, unbiased=False), torch.ones(len(rows)))
    torch.testing.assert_close(standardized(5 * logits - 7), rows)


def test_several_teachers_are_averaged_as_probabilities_at_the_temperature():
    one, other, _ = batch()
    mean = (torch.softmax(one / 3, 1) + torch.softmax(other / 3, 1)) / 2
    torch.testing.assert_close(torch.softmax(averaged([one, other], 3.0) / 3, 1), mean)
    assert averaged([one], 3.0) is one
