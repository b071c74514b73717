from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from laconic.data import Split, Splits
from laconic.distill import Response
from laconic.errors import LaconicError
from laconic.program import capture, clone
from laconic.recipe import apply
from laconic.train import top1

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
    """Written out: the same training by hand ends at the same network, up to rounding."""
    students = [capture(untrained, context.example()) for _ in range(2)]
    step = Response(alpha=0.6, temperature=2.0, **QUICK | {"epochs": 1, "learning_rate": 0.01})
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
