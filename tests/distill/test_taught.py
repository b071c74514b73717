"""What the steps that learn from a teacher share: who teaches, what is matched, what is kept, what is refused."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from laconic.data import CropFlip, Split, Splits
from laconic.distill import BornAgain, Exits, Feature, Mutual, Relation, Response, Student
from laconic.distill.remembered import Remembered
from laconic.distill.responses import averaged
from laconic.distill.teachers import Answers
from laconic.errors import LaconicError
from laconic.program import capture, clone, save
from laconic.recipe import apply, parse, plain
from laconic.train import top1
from networks import captured

QUICK = {"epochs": 5, "batch": 32, "learning_rate": 0.01, "autocast": "off"}


class Slim(nn.Module):
    """Half the channels of the network of conftest.py, without its residual sum."""

    def __init__(self, classes=10):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.head = nn.Linear(6 * 4 * 4, classes)

    def forward(self, x):
        return self.head(self.down(self.norm(self.stem(x)).relu()).relu().flatten(1))


@pytest.fixture
def slim(context):
    torch.manual_seed(3)
    return capture(Slim().eval(), context.example())


STEPS = [
    Response(loss="decoupled", **QUICK),
    Response(loss="correlation", target=1.0, others=1.0, **QUICK),
    Response(standardize=True, **QUICK),
    *(Feature(loss=loss, **QUICK) for loss in ("hint", "attention", "similarity", "review")),
    *(Relation(loss=loss, **QUICK) for loss in ("distances", "contrast")),
    Mutual(**QUICK),
    BornAgain(**QUICK | {"learning_rate": 0.05}),
    Exits(**QUICK),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{type(step).__name__} {getattr(step, 'loss', '')}")
def test_every_step_teaches_a_student_of_another_shape(step, slim, program, make_context):
    context = make_context(teacher=program)
    before = top1(slim, context.splits.test)
    names = set(slim.state_dict())
    student = step(slim, context)
    assert top1(student, context.splits.test) > max(before, 0.15) + 0.2
    assert set(student.state_dict()) == names
    assert context.notes
    assert student(*context.example()).shape == (2, 10)


@pytest.mark.parametrize("step", [Feature(loss="hint", **QUICK), Feature(loss="review", **QUICK), Relation(loss="contrast", **QUICK)])
def test_what_is_compared_inside_reaches_the_students_weights(step, slim, program, make_context):
    ends = []
    for weight in (1e-9, 3.0):
        student = clone(slim)
        replace(step, weight=weight)(student, make_context(teacher=program))
        ends.append(student.get_parameter("stem.weight").detach().clone())
    assert not torch.allclose(*ends, atol=1e-4)


def test_a_hint_draws_the_students_values_to_the_teachers(slim, program, make_context):
    """Without labels and answers, what the adapter makes of the student's values comes near to the teacher's."""
    context = make_context(teacher=program)
    step = Feature(loss="hint", alpha=1.0, weight=10.0, **QUICK | {"epochs": 6})
    step(slim, context)
    history = context.notes
    assert any("matched: stem (4 channels, 8x8 positions) with the teacher's right (8 channels, 8x8 positions)" in note for note in history)
    assert any("down" in note for note in history)


def test_places_are_named_by_their_layers_or_refused_with_what_there_is(slim, program, make_context):
    context = make_context(teacher=program)
    step = Feature(loss="similarity", layers={"stem": "down"}, **QUICK | {"epochs": 1})
    step(clone(slim), context)
    assert "matched: stem (4 channels, 8x8 positions) with the teacher's down (16 channels, 4x4 positions)" in context.notes
    with pytest.raises(
        LaconicError, match=r"no place behind a layer 'stemm'; the student's: stem \(4 channels.*; the teacher's: stem \(8 ch"
    ):
        Feature(layers={"stemm": "down"}, **QUICK)(slim, context)
    with pytest.raises(LaconicError, match=r"attention compares values at the same positions; these differ: stem .* with down"):
        Feature(loss="attention", layers={"stem": "down"}, **QUICK)(slim, context)


def test_networks_without_a_size_in_common_say_what_there_is(program, make_context):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(64, 12), nn.Linear(12, 10)

        def forward(self, x):
            return self.last(self.first(x.flatten(1)).relu())

    context = make_context(teacher=program)
    flat = capture(Flat().eval(), context.example())
    with pytest.raises(LaconicError, match=r"matched are first|as many positions as one of the teacher"):
        Feature(loss="attention", **QUICK)(flat, context)


def test_a_teacher_of_other_classes_or_inputs_is_refused_before_any_training(slim, make_context):
    context = make_context()
    other = capture(Slim(classes=7).eval(), context.example())
    with pytest.raises(LaconicError, match="answers with 7 classes, the student with 10"):
        Response(**QUICK)(slim, replace(context, teacher=other))
    with pytest.raises(LaconicError, match=r"takes inputs .*the student"):
        Response(**QUICK)(slim, replace(context, teacher=captured("convolution")[0]))


def test_a_teacher_that_does_worse_is_a_warning_with_both_scores(program, slim, make_context, capfd):
    context = make_context(teacher=slim)
    Response(**QUICK | {"epochs": 1})(program, context)
    assert "below the student's" in capfd.readouterr().err
    assert any(note.startswith("warning: the teacher scores 0.") for note in context.notes)


def test_several_named_teachers_are_averaged_and_their_files_are_part_of_the_result(program, slim, make_context, tmp_path):
    context = make_context()
    paths = [tmp_path / f"{number}.safetensors" for number in range(2)]
    second = Response(**QUICK)(clone(slim), make_context(teacher=program))
    for path, each in zip(paths, (program, second), strict=True):
        save(each, path)
    step = Response(teachers=[str(path) for path in paths], **QUICK)
    assert parse(plain([step])) == [step]
    student = step(clone(slim), context)
    assert top1(student, context.splits.test) > 0.5
    before = step.depends_on
    save(slim, paths[1])
    assert step.depends_on != before
    mean = Answers([program.eval(), second.eval()], partial(averaged, temperature=4.0))(*context.example(5))[0]
    chances = sum(torch.softmax(each(*context.example(5)) / 4, 1) for each in (program, second)) / 2
    torch.testing.assert_close(torch.softmax(mean / 4, 1), chances)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": -1}, {"alpha": 1.5}, {"views": 0}, {"loss": "nothing"}])
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Feature(**settings)


# a network in place of the one that came ------------------------------------------------------------


def test_a_recipe_goes_on_with_a_student_whose_teacher_is_the_network_that_came(program, make_context, tmp_path):
    (tmp_path / "mine.py").write_text("from distill.test_taught import Slim\n\n\ndef slim():\n    return Slim()\n")
    context = make_context()
    steps = parse([{"distill.Student": {"model": f"{tmp_path}/mine.py:slim"}}, {"distill.Response": QUICK}])
    compressed = apply(clone(program), steps, context)
    assert "parameters in place of" in compressed.journal[0].notes[0]
    assert compressed.journal[1].score_after > compressed.journal[0].score_after + 0.2
    assert sum(p.numel() for p in compressed.program.parameters()) < 0.5 * sum(p.numel() for p in program.parameters())


def test_students_of_a_seed_are_the_same_and_of_two_seeds_differ(program, make_context):
    students = [Student()(program, make_context(seed=seed)) for seed in (0, 0, 1)]
    weights = [student.get_parameter("head.weight") for student in students]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], program.get_parameter("head.weight"))


def test_a_student_of_other_classes_is_refused(program, make_context, tmp_path):
    (tmp_path / "mine.py").write_text("from distill.test_taught import Slim\n\n\ndef slim():\n    return Slim(7)\n")
    with pytest.raises(LaconicError, match="answers with 10 classes, the student with 7"):
        Student(model=f"{tmp_path}/mine.py:slim")(program, make_context())


def test_weights_of_a_student_without_a_name_are_refused(program, make_context, tmp_path):
    save_file({}, tmp_path / "a.safetensors")
    with pytest.raises(LaconicError, match="name it"):
        Student(weights=tmp_path / "a.safetensors")(program, make_context())


def words(width, vocabulary=30):
    torch.manual_seed(width)
    table = nn.Embedding(vocabulary, width)
    network = nn.Sequential(table, nn.Flatten(), nn.Linear(5 * width, 3))
    return capture(network.eval(), (torch.randint(vocabulary, (2, 5)),))


@pytest.fixture
def sentences(make_context):
    part = Split(np.random.default_rng(0).integers(0, 30, (40, 5)), np.arange(40) % 3)
    return make_context(splits=Splits(part, part, part, part))


def test_a_students_words_are_the_principal_components_of_the_teachers(sentences, tmp_path, monkeypatch):
    teacher = words(12)
    monkeypatch.setattr("laconic.distill.student.zoo.load", lambda *_: nn.Sequential(nn.Embedding(30, 4), nn.Flatten(), nn.Linear(20, 3)))
    student = Student(model="small", embeddings="teacher")(teacher, sentences)
    theirs, ours = (each.get_parameter("0.weight").detach().double() for each in (teacher, student))
    centred = theirs - theirs.mean(0)
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    best = left[:, :4] * sizes[:4]
    spanned = torch.linalg.lstsq(ours, best).solution
    torch.testing.assert_close(ours @ spanned, best, rtol=1e-3, atol=1e-3)
    share = (sizes[:4] ** 2).sum() / (sizes**2).sum()
    assert f"holds 4 principal components of the teacher's 0.weight, {float(share):.0%} of its variance" in sentences.notes[0]


def test_words_of_another_vocabulary_are_refused(sentences, monkeypatch):
    monkeypatch.setattr("laconic.distill.student.zoo.load", lambda *_: nn.Sequential(nn.Embedding(31, 4), nn.Flatten(), nn.Linear(20, 3)))
    with pytest.raises(LaconicError, match=r"the teacher's is \(30, 12\), the student's \(31, 4\)"):
        Student(model="small", embeddings="teacher")(words(12), sentences)


# answers that are kept ------------------------------------------------------------------------------


class Counting:
    """A teacher that counts how many examples it was asked about."""

    def __init__(self, teacher):
        self.teacher, self.asked = Answers([teacher.eval()], partial(averaged, temperature=4.0)), 0

    def __call__(self, inputs):
        self.asked += len(inputs)
        return self.teacher(inputs)


def drawn(kept, epoch, examples, size=50, order_seed=0):
    order = np.random.default_rng(order_seed).permutation(examples)
    parts = [kept(order[start : start + size], epoch, torch.Generator()) for start in range(0, examples, size)]
    inputs, labels, answers = (torch.cat(each) for each in zip(*parts, strict=True))
    back = torch.from_numpy(np.argsort(order))
    return inputs[back], labels[back], answers[back]


def one_by_one(batch, generator):
    """An augmentation that cannot be drawn ahead."""
    return batch + torch.rand(batch.shape, generator=generator)


@pytest.mark.parametrize("augment", [CropFlip(padding=1), one_by_one, None], ids=["drawn ahead", "one by one", "none"])
def test_views_come_back_the_same_and_their_answers_are_asked_for_once(augment, program, splits, tmp_path):
    train = splits.train.take(slice(0, 130))
    ask = Counting(program)
    kept = Remembered(train, augment, ask, 2, 5, "cpu", tmp_path, 4.0)
    ask.asked = 0
    first, second, again = (drawn(kept, epoch, 130, order_seed=epoch) for epoch in (0, 1, 2))
    assert ask.asked == 260
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    assert torch.equal(first[0], second[0]) == (augment is None)
    torch.testing.assert_close(first[2], ask.teacher(first[0])[0], rtol=2e-3, atol=2e-3)
    kept.keep()
    other_ask = Counting(program)
    other = Remembered(train, augment, other_ask, 2, 5, "cpu", tmp_path, 4.0)
    other_ask.asked = 0
    for epoch, wanted in ((0, first), (1, second)):
        for one, two in zip(drawn(other, epoch, 130, order_seed=9), wanted, strict=True):
            torch.testing.assert_close(one, two, atol=0, rtol=0)
    assert other_ask.asked == 0


def test_what_is_missing_or_damaged_is_asked_for_again(program, splits, tmp_path):
    train, ask = splits.train.take(slice(0, 60)), Counting(program)
    kept = Remembered(train, None, ask, 1, 0, "cpu", tmp_path, 4.0)
    kept(np.arange(20), 0, torch.Generator())
    kept.keep()
    [path] = tmp_path.iterdir()
    ask.asked = 0
    later = Remembered(train, None, ask, 1, 0, "cpu", tmp_path, 4.0)
    ask.asked = 0
    drawn(later, 0, 60)
    assert ask.asked == 40
    later.keep()
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    spoilt = Remembered(train, None, ask, 1, 0, "cpu", tmp_path, 4.0)
    ask.asked = 0
    drawn(spoilt, 0, 60)
    assert ask.asked == 60


def test_a_step_with_kept_answers_learns_and_leaves_them_for_the_next(program, slim, make_context, tmp_path):
    context = make_context(teacher=program)
    step = Feature(loss="attention", views=2, cache=tmp_path / "answers", **QUICK | {"epochs": 4})
    student = step(clone(slim), context)
    assert top1(student, context.splits.test) > 0.5
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("answers-*.bin"))
    assert len(files) == 2
    again = step(clone(slim), make_context(teacher=program))
    assert torch.equal(student(*context.example(9)), again(*context.example(9)))


def test_answers_that_take_too_much_memory_are_refused_before_any_training(program, slim, make_context, monkeypatch):
    monkeypatch.setattr("laconic.distill.taught.LARGEST", 1000)
    with pytest.raises(LaconicError, match=r"take 0.0 GB, more than .*; leave views out"):
        Response(views=1, **QUICK)(slim, make_context(teacher=program))


@pytest.mark.parametrize("step", [Response(views=1, **QUICK), Mutual(**QUICK), BornAgain(**QUICK), Exits(**QUICK), Feature(**QUICK)])
def test_a_training_that_was_cut_off_goes_on_to_the_same_network(step, slim, program, make_context, tmp_path, monkeypatch):
    """Killed behind the second epoch, the same call gives what the uninterrupted one did."""
    whole = step(clone(slim), make_context(teacher=program, folder=tmp_path / "whole"))
    from laconic.train import state

    written, save_checkpoint = [], state.save

    def save_and_die(*arguments):
        save_checkpoint(*arguments)
        written.append(1)
        if len(written) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(state, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            step(clone(slim), make_context(teacher=program, folder=tmp_path / "cut"))
    context = make_context(teacher=program, folder=tmp_path / "cut")
    resumed = step(clone(slim), context)
    assert torch.equal(whole(*context.example(9)), resumed(*context.example(9)))


# together, again, and within ------------------------------------------------------------------------


def test_of_networks_that_learn_together_the_best_goes_on(slim, make_context):
    context = make_context()
    student = Mutual(students=3, **QUICK)(slim, context)
    scores = [float(score) for score in context.notes[0].rpartition("scores ")[2].split(", ")]
    assert len(scores) == 3
    assert context.score(student, context.splits.validation) == pytest.approx(max(scores), abs=1e-4)


def test_the_first_stays_where_it_is_told_to_and_the_others_taught_it(slim, make_context):
    ends = []
    for alpha in (0.0, 0.9):
        student = clone(slim)
        assert Mutual(alpha=alpha, stays="first", **QUICK)(student, make_context()) is student
        ends.append(student.get_parameter("head.weight").detach().clone())
    assert not torch.allclose(*ends, atol=1e-4)


def test_named_peers_learn_too(program, slim, make_context, tmp_path):
    save(program, tmp_path / "peer.safetensors")
    context = make_context()
    student = clone(slim)
    assert Mutual(peers=str(tmp_path / "peer.safetensors"), **QUICK)(student, context) is student
    assert top1(student, context.splits.test) > 0.5


def test_generations_begin_from_random_weights_and_the_best_may_stay(program, make_context):
    context = make_context()
    child = BornAgain(generations=2, **QUICK)(program, context)
    assert child is not program
    assert sum("generation" in note for note in context.notes) == 2
    best = BornAgain(stays="best", **QUICK | {"epochs": 1, "learning_rate": 1e-6})(program, make_context())
    assert torch.equal(best(*context.example(9)), program(*context.example(9)))


def test_exits_are_gone_again_and_a_network_without_a_place_for_them_is_refused(program, make_context):
    context = make_context()
    Exits(exits=2, **QUICK | {"epochs": 1})(program, context)
    assert "with 2 exits, which are gone again: right (8 channels, 8x8 positions), " in context.notes[0] or "exits" in context.notes[0]
    flat = Split(context.splits.train.inputs.reshape(-1, 64).astype("float32"), context.splits.train.labels)
    alone = make_context(splits=replace(context.splits, train=flat, calibration=flat, validation=flat, test=flat))
    with pytest.raises(LaconicError, match="needs a value on the way"):
        Exits(**QUICK)(capture(nn.Sequential(nn.Linear(64, 10)), alone.example()), alone)
