"""The command line as a user meets it: what each command writes, what it prints, and with which code it ends."""

import json
import sys
from pathlib import Path

import pytest

import laconic
from laconic.cli import main

USER = '''
"""A user's own network and data: three heaps of points in four dimensions, well apart."""
import numpy as np
import torch
from torch import nn

from laconic import Dataset, Split


def _part(count, seed):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return Split((generator.normal(size=(count, 4)) + 3 * np.eye(4)[labels]).astype(np.float32), labels)


def data():
    return Dataset(_part(90, 0), _part(300, 1), classes=("a", "b", "c"), name="heaps")


def other_data():
    return Dataset(_part(90, 0), _part(300, 2), classes=("a", "b", "c"), name="heaps")


def without_training():
    return Dataset(_part(90, 0), calibration=_part(300, 1), classes=("a", "b", "c"))


def bad_labels():
    part = _part(90, 0)
    return Dataset(Split(part.inputs, np.where(np.arange(90) == 5, 7, part.labels)), _part(300, 1))


def raises():
    return {}["no such key"]


def model():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 3))
    inputs, labels = data().train.batch(slice(None))
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    return network


def not_a_number():
    network = model()
    network[0].weight.data[0, 0] = float("nan")
    return network


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 3)

    def forward(self, inputs):
        outputs = self.dense(inputs)
        if outputs.sum() > 0:  # the line that cannot be captured
            return outputs
        return -outputs


def regression():
    return nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))


def other_inputs():
    return nn.Sequential(nn.Linear(5, 3))


def interrupted():
    raise KeyboardInterrupt


def talkative():
    print("hello from the factory")
    return model()
'''


def run(*argv):
    """Run the command line in this process; returns its exit code."""
    before, sys.argv = sys.argv, ["laconic", *map(str, argv)]
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = before
    return 0


def user_file(folder):
    path = folder / "mine.py"
    path.write_text(USER)
    return path


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    return user_file(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def shrunk(mine):
    """A folder delivered by `shrink` from the user's own file."""
    out = mine.parent / "out"
    assert run("shrink", "--model", f"{mine}:model", "--data", f"{mine}:data", "--smaller", "1.1", "--out", out) == 0
    return out


def test_shrink_delivers_a_network_that_load_runs_on_the_users_rows(shrunk, mine):
    network, namespace = laconic.load(shrunk), {}
    exec(mine.read_text(), namespace)
    test = namespace["data"]().test
    assert network(test.arrays(slice(0, 1))).shape == (1, 3)
    receipt = json.loads((shrunk / "receipt.json").read_text())
    share = (network(test.arrays(slice(None))).argmax(1) == test.labels).mean()
    assert share == pytest.approx(receipt["after"]["accuracy"])
    assert receipt["met"]
    assert receipt["ratios"]["smaller"] > 1.1


def test_a_finished_run_leaves_its_files_and_nothing_half_written(shrunk):
    assert {path.name for path in shrunk.iterdir()} == {
        "model.onnx",
        "baseline.onnx",
        "program.safetensors",
        "receipt.json",
        "report.html",
        "plots",
        "work",
    }
    assert not [path for path in shrunk.rglob(".*") if path.is_file()]


def test_a_budget_out_of_reach_ends_with_3_and_delivers_the_best_with_its_receipt(mine, tmp_path, capfd):
    arguments = ["--max-bytes", "10", "--smaller", "50", "--json", "--out", tmp_path]
    code = run("shrink", "--model", f"{mine}:model", "--data", f"{mine}:without_training", *arguments)
    printed = capfd.readouterr()
    assert code == 3
    receipt = json.loads(printed.out)
    assert not receipt["met"]
    assert "at least 50x asked" in printed.err
    assert "at most 10 allowed" in printed.err
    assert (tmp_path / "model.onnx").stat().st_size == receipt["after"]["file_bytes"]
    assert [attempt["name"] for attempt in receipt["attempts"]] == ["int8"], "what else there is for integers is as large"
    assert "cannot be reached" in printed.err, "filters were thought of"


def test_what_is_smaller_in_the_program_only_is_said_before_and_after(mine, tmp_path, capfd):
    (tmp_path / "recipe.yaml").write_text("- quantize.WeightOnly: {format: int4, granularity: group, group_size: 4}\n")
    arguments = ["--recipe", tmp_path / "recipe.yaml", "--data", f"{mine}:data", "--out", tmp_path / "out", "--json"]
    assert run("compress", "--model", f"{mine}:model", *arguments) == 0
    printed = capfd.readouterr()
    said = " ".join(printed.err.split())
    assert "holds it dense: quantize.WeightOnly: grouped int4 weights in groups of 4." in said
    assert "makes program.safetensors smaller, not the .onnx file, and nothing faster" in said
    receipt = json.loads(printed.out)
    assert receipt["runtime"]["dense"] == "grouped int4 weights in groups of 4 (3)"
    assert receipt["ratios"]["smaller"] == pytest.approx(1, abs=0.02)
    [entry] = receipt["journal"]
    content = (tmp_path / "out" / "program.safetensors").read_bytes()
    assert len(content) - 8 - int.from_bytes(content[:8], "little") == entry["bytes_after"] < 0.4 * entry["bytes_before"]
    assert run("export", "--model", tmp_path / "out" / "program.safetensors", "--out", tmp_path / "again.onnx") == 0
    assert capfd.readouterr().out.count("written dense: ") == 3
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out" / "model.onnx").read_bytes()


def test_report_writes_a_lost_report_again(shrunk, capfd):
    (shrunk / "report.html").unlink()
    assert run("report", shrunk, "--json") == 0
    assert json.loads(capfd.readouterr().out) == {"report": str(shrunk / "report.html")}
    assert (shrunk / "report.html").stat().st_size > 1000


def test_measure_prints_the_same_accuracy_for_the_file_as_the_receipt_claims(shrunk, mine, capfd):
    assert run("measure", shrunk / "model.onnx", "--data", f"{mine}:data", "--json") == 0
    measured = json.loads(capfd.readouterr().out)
    claimed = json.loads((shrunk / "receipt.json").read_text())["after"]
    assert {name: measured[name] for name in ("accuracy", "file_bytes", "macs")} == {
        name: claimed[name] for name in ("accuracy", "file_bytes", "macs")
    }


def test_export_of_the_delivered_program_is_the_delivered_file(shrunk, tmp_path, capfd):
    assert run("export", "--model", shrunk / "program.safetensors", "--out", tmp_path / "again.onnx", "--json") == 0
    assert json.loads(capfd.readouterr().out)["integer_tensors"] >= 3
    assert (tmp_path / "again.onnx").read_bytes() == (shrunk / "model.onnx").read_bytes()


def test_json_alone_is_on_standard_output_even_when_the_users_code_prints(mine, tmp_path, capfd):
    out = tmp_path / "float.onnx"
    assert run("export", "--model", f"{mine}:talkative", "--data", f"{mine}:data", "--out", out, "--json") == 0
    assert json.loads(capfd.readouterr().out)["file"] == str(out)


def test_train_writes_weights_that_fit_the_network(tmp_path, capfd):
    out = tmp_path / "digits.safetensors"
    model = "zoo:digits_cnn?width=8"
    assert run("train", "--model", model, "--data", "digits", "--epochs", "1", "--out", out, "--json") == 0
    assert json.loads(capfd.readouterr().out)["validation_accuracy"] > 0.2
    assert [path.name for path in tmp_path.iterdir()] == ["digits.safetensors"]
    assert run("export", "--model", model, "--weights", out, "--data", "digits", "--out", tmp_path / "digits.onnx") == 0


def test_schema_is_json_and_names_every_step(capfd):
    from laconic.recipe import step_classes

    assert run("schema") == 0
    printed = capfd.readouterr().out
    json.loads(printed)
    assert all(name in printed for name in step_classes())


STUDENT = """
from torch import nn

def student():
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))

def of_two_classes():
    return nn.Linear(4, 2)
"""


@pytest.mark.parametrize(("student", "method"), [("file", "contrast"), ("width:0.5", "divergence")])
def test_distill_delivers_a_student_beside_its_teacher(student, method, mine, tmp_path, capfd):
    (tmp_path / "small.py").write_text(STUDENT)
    student = f"{tmp_path}/small.py:student" if student == "file" else student
    learning = ["--epochs", "5", "--batch", "32", "--learning-rate", "0.02", "--views", "2", "--method", method]
    words = ["--teacher", f"{mine}:model", "--student", student, "--data", f"{mine}:data", *learning, "--out", tmp_path / "out"]
    assert run("distill", *words, "--json") == 0
    receipt = json.loads(capfd.readouterr().out)
    assert receipt["ratios"]["smaller"] > 2
    assert receipt["after"]["accuracy"] > 0.9
    assert [step.partition(".")[0] for entry in receipt["recipe"] for step in entry] == (
        ["distill", "distill"] if "small" in student else ["prune", "distill"]
    )
    assert run("report", tmp_path / "out") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--student", "width:2"], "a share between 0 and 1"),
        (["--student", "width:0.5", "--student-weights", "a.safetensors"], "leave --student-weights out"),
        (["--student", "zoo:resnet21"], "did you mean 'resnet20'"),
        (["--student", "two"], "answers with 3 classes, the student"),
        (["--student", "zoo:lenet5", "--method", "hints"], "did you mean 'hint'"),
        (["--student", "two", "--temperature", "0"], "temperature: Input should be greater than 0"),
    ],
)
def test_a_student_that_cannot_be_taught_is_refused_before_any_training(words, message, mine, tmp_path, capfd):
    (tmp_path / "small.py").write_text(STUDENT)
    words = [f"{tmp_path}/small.py:of_two_classes" if word == "two" else word for word in words]
    assert run("distill", "--teacher", f"{mine}:model", "--data", f"{mine}:data", "--out", tmp_path / "out", *words) == 2
    assert message in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    "command", ["", "shrink", "compress", "distill", "train", "measure", "export", "groups", "verify", "report", "schema"]
)
def test_help_of_every_command_says_what_it_does(command, capfd):
    assert run(*command.split(), "--help") == 0
    printed = capfd.readouterr().out
    assert "Usage:" in printed
    assert "--help" in printed


def test_version_is_printed(capfd):
    assert run("--version") == 0
    assert capfd.readouterr().out.strip() == f"laconic {laconic.__version__}"


def test_an_interrupted_run_says_that_the_same_command_goes_on(mine, tmp_path, capfd):
    assert run("shrink", "--model", f"{mine}:interrupted", "--data", f"{mine}:data", "--out", tmp_path) == 130
    assert "the same command goes on" in capfd.readouterr().err
    assert not list(Path(tmp_path).iterdir())
