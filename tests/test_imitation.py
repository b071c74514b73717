"""Imitation: the loss against another network's answers, against its formula and its limits."""

import math

import pytest
import torch
from torch import nn

from laconic.train import cross_entropy
from laconic.train.imitation import response_loss, softened_divergence

# The divergence


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_with_two_classes_the_divergence_is_that_of_two_coins(temperature):
    for student, teacher in ((0.0, 2.0), (-1.0, 3.0), (2.5, -0.5)):
        p, q = sigmoid(teacher / temperature), sigmoid(student / temperature)
        coins = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        found = softened_divergence(torch.tensor([[student, 0.0]]).double(), torch.tensor([[teacher, 0.0]]).double(), temperature)
        assert float(found) == pytest.approx(temperature**2 * coins, rel=1e-9)


def test_the_divergence_is_the_mean_over_the_batch():
    student, teacher = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    one_by_one = [float(softened_divergence(student[i : i + 1], teacher[i : i + 1], 3.0)) for i in range(5)]
    assert float(softened_divergence(student, teacher, 3.0)) == pytest.approx(sum(one_by_one) / 5)


def test_every_position_of_a_sequence_is_an_answer_of_its_own():
    student, teacher = torch.randn(2, 3, 4, 7).double()
    flat = softened_divergence(student.reshape(12, 7), teacher.reshape(12, 7), 2.0)
    assert float(softened_divergence(student, teacher, 2.0)) == pytest.approx(float(flat))


def test_a_perfect_student_has_loss_zero_whatever_the_constant():
    teacher = torch.randn(6, 10).double()
    assert float(softened_divergence(teacher, teacher, 4.0)) == 0
    assert float(softened_divergence(teacher + torch.randn(6, 1), teacher, 4.0)) == pytest.approx(0, abs=1e-12)


def test_no_student_has_a_loss_below_zero():
    for _ in range(20):
        assert softened_divergence(torch.randn(4, 10), torch.randn(4, 10), 2.0) > 0


def test_at_a_high_temperature_it_is_half_the_variance_of_the_difference_of_the_logits():
    """Hinton et al. 2015, eq. 4: matching zero-mean logits is the limit; T^2 KL -> sum((z - v)^2) / (2 classes), both centred."""
    student, teacher = torch.randn(3, 8).double(), torch.randn(3, 8).double()
    difference = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    limit = (difference**2).sum(1).mean() / (2 * 8)
    assert float(softened_divergence(student, teacher, 1e4)) == pytest.approx(float(limit), rel=1e-3)


def test_the_gradient_is_temperature_times_the_difference_of_the_softened_answers():
    """Hinton et al. 2015, eq. 2: dC/dz = (q - p) / T, times T^2 of the loss."""
    student, teacher = torch.randn(4, 6).double().requires_grad_(), torch.randn(4, 6).double()
    softened_divergence(student, teacher, 2.5).backward()
    expected = 2.5 * (torch.softmax(student.detach() / 2.5, 1) - torch.softmax(teacher / 2.5, 1)) / 4
    torch.testing.assert_close(student.grad, expected)


# The loss


@pytest.fixture
def pair():
    """Teacher, student, inputs, labels."""
    return nn.Linear(5, 4), nn.Linear(5, 4), torch.randn(8, 5), torch.randint(0, 4, (8,))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_loss_and_its_gradient_are_those_of_the_formula_written_out(pair, alpha):
    teacher, student, inputs, labels = pair
    temperature = 3.0
    response_loss(teacher, temperature, alpha)(student, inputs, labels).backward()
    found = [parameter.grad.clone() for parameter in student.parameters()]
    student.zero_grad()
    p = torch.exp(teacher(inputs) / temperature)
    p = (p / p.sum(1, keepdim=True)).detach()
    z = student(inputs)
    log_q = z / temperature - torch.logsumexp(z / temperature, 1, keepdim=True)
    soft = (p * (p.log() - log_q)).sum(1).mean()
    hard = -(z - torch.logsumexp(z, 1, keepdim=True))[torch.arange(8), labels].mean()
    (alpha * temperature**2 * soft + (1 - alpha) * hard).backward()
    for ours, theirs in zip(found, student.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, rtol=1e-4, atol=1e-6)


def test_alpha_zero_is_the_cross_entropy_and_alpha_one_asks_no_labels(pair):
    teacher, student, inputs, labels = pair
    torch.testing.assert_close(response_loss(teacher, 4.0, 0.0)(student, inputs, labels), cross_entropy(student, inputs, labels))
    whole = response_loss(teacher, 4.0, 1.0)
    assert whole(student, inputs, labels) == whole(student, inputs, (labels + 1) % 4)


def test_no_gradient_reaches_the_teacher(pair):
    teacher, student, inputs, labels = pair
    response_loss(teacher, 4.0, 0.5)(student, inputs, labels).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad.any() for parameter in student.parameters())


def test_the_loss_is_named_by_its_teacher_so_that_no_other_teachers_checkpoint_is_gone_on_with():
    teacher, other = nn.Linear(5, 4), nn.Linear(5, 4)
    again = nn.Linear(5, 4)
    again.load_state_dict(teacher.state_dict())
    names = [response_loss(each, 4.0, 0.5).teacher for each in (teacher, again, other)]
    assert names[0] == names[1] != names[2]
