import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from laconic.data import Split, Splits
from laconic.distill import Response
from laconic.train.imitation import response_loss, softened_divergence
from laconic.errors import LaconicError
from laconic.program import capture, clone
from laconic.recipe import apply
from laconic.train import cross_entropy, top1

# The mathematics


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


# The step

QUICK = {"epochs": 4, "batch": 64, "learning_rate": 0.05, "autocast": "off"}


def test_a_student_without_labels_learns_what_the_teacher_knows(program, untrained, context, make_context):
    student = capture(untrained, context.example())
    before = top1(student, context.splits.test)
    shuffled = context.splits.train
    shuffled = Split(shuffled.inputs, (shuffled.labels + 1) % 10, shuffled.mean, shuffled.std)  # every label is wrong
    blind = make_context(splits=replace(context.splits, train=shuffled), teacher=program)
    apply(student, [Response(alpha=1.0, **QUICK | {"epochs": 10})], blind)
    assert before < 0.4
    assert top1(student, context.splits.test) > 0.85


def test_the_teacher_is_left_as_it_was_and_answers_in_eval_mode(program, untrained, context, make_context):
    teacher = clone(program).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    Response(**QUICK)(capture(untrained, context.example()), make_context(teacher=teacher))
    assert teacher.training
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    students = []
    for each in (teacher, clone(teacher).eval()):
        students.append(Response(**QUICK | {"epochs": 1})(capture(untrained, context.example()), make_context(teacher=each)))
    assert torch.equal(*(student(*context.example(9)) for student in students))


def test_without_a_teacher_it_says_what_gives_one(program, context):
    with pytest.raises(LaconicError, match=r"needs a teacher: give Context\(teacher=...\), or run it through compress"):
        Response(**QUICK)(program, context)


def test_without_training_data_it_is_refused(program, untrained_context):
    with pytest.raises(LaconicError, match="no training split"):
        Response(**QUICK)(program, replace(untrained_context, teacher=clone(program)))


def test_the_temperature_reaches_the_loss(program, untrained, context, make_context):
    ends = []
    for temperature in (1.0, 8.0):
        student = capture(untrained, context.example())
        Response(alpha=1.0, temperature=temperature, **QUICK | {"epochs": 1})(student, make_context(teacher=program))
        ends.append(student(*context.example(9)).detach())
    assert not torch.allclose(*ends)


def test_the_step_is_the_loop_with_the_loss(program, untrained, context, make_context):
    """Written out: the same training by hand ends at the same bits."""
    students = [capture(untrained, context.example()) for _ in range(2)]
    step = Response(alpha=0.6, temperature=2.0, **QUICK | {"epochs": 2})
    step(students[0], make_context(teacher=program))
    teacher = clone(program).eval()

    def loss(model, inputs, labels):
        with torch.no_grad():
            p = F.softmax(teacher(inputs) / 2.0, 1)
        z = model(inputs)
        soft = F.kl_div(F.log_softmax(z / 2.0, 1), p, reduction="batchmean") * 4
        return 0.6 * soft + 0.4 * F.cross_entropy(z, labels)

    context.fit(students[1], step, loss)
    torch.testing.assert_close(students[0](*context.example(9)), students[1](*context.example(9)), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": -1}, {"alpha": -0.1}, {"alpha": 1.1}])
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Response(**settings)


def test_two_teachers_do_not_share_a_checkpoint(tmp_path, make_context, splits):
    """Training against another teacher must not go on where the first left off."""
    torch.manual_seed(0)
    part = Split(splits.train.inputs[:40].reshape(40, -1).astype("float32"), splits.train.labels[:40])
    student, other = nn.Sequential(nn.Linear(64, 10)), nn.Sequential(nn.Linear(64, 10))
    context = make_context(splits=Splits(part, part, part, part), folder=tmp_path)
    programs = [capture(student, context.example()) for _ in range(3)]
    teachers = [capture(student, context.example()), capture(other, context.example())]
    step = Response(alpha=1.0, epochs=1, autocast="off", learning_rate=1e-3)
    step(programs[0], replace(context, teacher=teachers[0]))
    step(programs[1], replace(context, teacher=teachers[1]))
    step(programs[2], replace(context, teacher=teachers[1], folder=None))
    example = torch.randn(3, 64)
    assert torch.equal(programs[1](example), programs[2](example))
