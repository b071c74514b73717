"""Networks whose answers are maps, classes of pixels or boxes, through everything from training to a receipt."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from laconic import zoo
from laconic.context import Context
from laconic.data import Dataset, Split, split
from laconic.distill import BornAgain, Exits, Feature, Mutual, Relation, Response
from laconic.errors import LaconicError
from laconic.job import check_outputs
from laconic.program import capture, clone
from laconic.prune import Filters
from laconic.quantize import Static
from laconic.quantize import Training as QuantizedTraining
from laconic.runtimes import onnxruntime
from laconic.train import Training, fit, usual_score
from laconic.tune import FineTune

QUICK = {"epochs": 2, "batch": 16, "learning_rate": 0.002, "optimizer": "adamw", "autocast": "off"}
KINDS = ("maps", "boxes")


def _scenes(kind: str, count: int = 64) -> Dataset:
    """Bright squares on dark noise, each of one of two colours, to be painted or found."""
    random = np.random.default_rng(0)
    inputs = random.integers(0, 60, (count, 3, 32, 32), dtype=np.uint8)
    maps, boxes = np.zeros((count, 32, 32), np.uint8), np.full((count, 2, 5), -1, np.float32)
    for number in range(count):
        kinds, side = random.integers(2), random.integers(8, 14)
        left, top = random.integers(0, 32 - side, 2)
        inputs[number, kinds, top : top + side, left : left + side] = 250
        maps[number, top : top + side, left : left + side] = kinds + 1
        boxes[number, 0] = [kinds, *(np.array([left, top, left + side, top + side]) / 32)]
    every = Split(inputs, maps if kind == "maps" else boxes, (40.0,) * 3, (60.0,) * 3)
    return Dataset(every.take(slice(48, None)), every.take(slice(48)), classes=("nothing", "red", "green")[kind == "boxes" :])


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def taught(kind):
    """A context, and a network that has learned its task."""
    torch.manual_seed(1)
    context = Context(split(_scenes(kind), 0, validation=8, calibration=16))
    name = "segmenter?width=4&classes=3" if kind == "maps" else "detector?width=4&classes=2"
    program = capture(zoo.load(name), context.example())
    training = Training(epochs=40, batch=8, learning_rate=0.01, optimizer="adamw", autocast="off", weight_decay=0)
    fit(program, context.splits.train, training)
    return replace(context, teacher=clone(program)), program


def test_it_learns_its_task(taught):
    context, program = taught
    assert usual_score(program, context.splits.train) > 0.5  # of a network that sees nothing 0.3 of maps, 0 of boxes
    assert usual_score(program, context.splits.test) > 0.4
    check_outputs(program, context)


CHANGE = [
    FineTune(**QUICK),
    Filters(ratio=0.25, importance="taylor", training=Training(**QUICK)),
    Static(),
    QuantizedTraining(weight_bits=4, activation_bits=8, epochs=1, batch=16),
]
TEACH = [
    Response(**QUICK),
    Response(views=1, **QUICK),
    Feature(loss="hint", **QUICK),
    *(Feature(loss=loss, **QUICK) for loss in ("channels", "attention", "similarity", "review")),
    *(Relation(loss=loss, **QUICK) for loss in ("distances", "contrast")),
    Mutual(**QUICK),
    BornAgain(**QUICK),
]


@pytest.mark.parametrize("step", CHANGE, ids=lambda step: f"{type(step).__module__}")
def test_steps_change_it_and_the_file_answers_as_the_program_does(step, taught, tmp_path):
    context, program = taught
    made = step(clone(program), context)
    path = tmp_path / "model.onnx"
    onnxruntime.export(made, context.example(), path)
    inputs = context.splits.test.arrays(slice(0, 4))
    with torch.no_grad():
        ours = made(torch.from_numpy(inputs)).numpy()
    theirs = onnxruntime.load(path, 1)(inputs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 0.05 * np.abs(ours).mean()


@pytest.mark.parametrize("step", TEACH, ids=lambda step: f"{type(step).__name__} {getattr(step, 'loss', '')} {getattr(step, 'views', '')}")
def test_steps_teach_it(step, taught):
    context, program = taught
    made = step(clone(program), context)
    assert 0 <= usual_score(made, context.splits.test) <= 1
    names = {"weight", *made.state_dict()}
    assert any(not torch.equal(made.state_dict()[name], program.state_dict()[name]) for name in names & set(program.state_dict()))


def test_channels_that_matter_are_found_without_labels(taught):
    context, program = taught
    made = Filters(ratio=0.25, importance="fisher")(clone(program), context)
    assert sum(tensor.numel() for tensor in made.state_dict().values()) < sum(tensor.numel() for tensor in program.state_dict().values())


def test_answers_of_pixels_are_compared_pixel_by_pixel_or_channel_by_channel():
    context = Context(split(_scenes("maps"), 0, validation=8, calibration=16))
    program = capture(zoo.load("segmenter?width=4&classes=3"), context.example())
    context = replace(context, teacher=clone(program))
    for step in (Response(loss="channels", **QUICK), Response(loss="decoupled", **QUICK), Response(loss="correlation", **QUICK)):
        outputs = torch.randn(2, 3, 4, 4, requires_grad=True)
        labels = torch.randint(3, (2, 4, 4))
        loss = step.response(outputs, outputs.detach(), labels)
        assert loss.item() == pytest.approx(0, abs=1e-4)
        step.response(outputs, torch.randn(2, 3, 4, 4), labels).backward()
        assert torch.isfinite(outputs.grad).all()
        assert math.isfinite(usual_score(step(clone(program), context), context.splits.test))


def test_what_boxes_do_not_allow_is_said_before_work():
    context = Context(split(_scenes("boxes"), 0, validation=8, calibration=16))
    program = capture(zoo.load("detector?width=4&classes=2"), context.example())
    context = replace(context, teacher=clone(program))
    for step in (Response(loss="decoupled", **QUICK), Response(standardize=True, **QUICK), Response(loss="channels", **QUICK)):
        with pytest.raises(LaconicError, match=r"boxes|label to every pixel"):
            step(clone(program), context)
    with pytest.raises(LaconicError, match="one class to an example"):
        Exits(**QUICK)(clone(program), context)
    wrong = capture(zoo.load("detector?width=4&classes=1"), context.example())
    with pytest.raises(LaconicError, match=r"1 classes|1 outputs"):
        check_outputs(wrong, context)
