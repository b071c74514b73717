import json
from dataclasses import replace

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from laconic import zoo
from laconic.cli import app
from laconic.distill import BornAgain, Exits, Feature, Response, Student
from laconic.errors import LaconicError
from laconic.program import clone
from laconic.prune import Filters, Magnitude
from laconic.recipe import apply
from laconic.search import on_labels_alone
from laconic.train import Training
from laconic.tune import FineTune

QUICK = {"epochs": 2, "batch": 64, "learning_rate": 0.02, "autocast": "off"}


def test_what_teaches_becomes_training_on_labels_and_the_rest_stays():
    student, cut = Student(model="zoo:digits_cnn"), Magnitude(sparsity=0.5)
    for step in (Response(temperature=2.0, **QUICK), Feature(loss="hint", **QUICK), Exits(**QUICK)):
        assert on_labels_alone([student, cut, step]) == [student, cut, FineTune(**QUICK)]
    quantized = Filters(ratio=0.5, training=Training(**QUICK))
    with pytest.raises(LaconicError, match="no step that trains"):
        on_labels_alone([cut])
    with pytest.raises(LaconicError, match="nothing without a teacher"):
        on_labels_alone([BornAgain(**QUICK)])
    assert on_labels_alone([quantized, FineTune(**QUICK)]) == [quantized, FineTune(**QUICK)]


def test_alone_there_is_no_teacher(program, make_context):
    context, scores = make_context(teacher=None), list[float]()
    for alone in (False, True):
        step = Filters(ratio=0.25, training=Training(**QUICK))
        made = apply(clone(program), [step], replace(context, notes=[]), alone=alone)
        scores.append(made.program(*context.example()).sum().item())
    assert scores[0] != scores[1]
    with pytest.raises(LaconicError, match="needs a teacher"):
        apply(clone(program), [Response(**QUICK)], context, alone=True)


def test_the_command_prints_and_keeps_what_distillation_gains(tmp_path):
    recipe, weights, out = tmp_path / "recipe.yaml", tmp_path / "digits.safetensors", tmp_path / "out"
    recipe.write_text("- prune.Filters: {ratio: 0.25}\n- distill.Response: {epochs: 1, batch: 256}\n")
    save_file(zoo.load("digits_cnn?width=16").state_dict(), weights)
    words = ["compress", "--recipe", str(recipe), "--model", "zoo:digits_cnn?width=16", "--weights", str(weights), "--data", "digits"]
    result = CliRunner().invoke(app, [*words, "--out", str(out), "--control", "2"])
    assert result.exit_code == 0, result.output
    found = json.loads((out / "control.json").read_text())
    assert found["seeds"] == [0, 1]
    assert found["mean_points"] == pytest.approx(sum(found["points"]) / 2)
    assert "training on labels alone" in " ".join(result.output.split())
