"""Verify holds a folder to its receipt: every claim that is changed is named, and a whole folder passes."""

import json
import shutil

import numpy as np
import pytest

from laconic import fresh
from laconic.errors import LaconicError
from laconic.verify import verify
from test_cli import run, user_file


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """A delivered folder, timed by a clock that other work on the machine cannot disturb, and its other measurements kept."""
    folder = tmp_path_factory.mktemp("verify")
    mine = user_file(folder)
    (folder / "recipe.yaml").write_text("- quantize.Static")
    arguments = ("--recipe", folder / "recipe.yaml", "--model", f"{mine}:model", "--data", f"{mine}:data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh, "time_files", _by_size)
        assert run("compress", *arguments, "--out", folder / "out") == 0
        for name in ("score_file", "peak_memory"):
            patch.setattr(fresh, name, _kept(getattr(fresh, name)))
        yield folder / "out"


def _by_size(files, example, threads, batch=1, seconds=2.0, least=30):
    """Return times that follow from the files: on a network of microseconds, measured ratios leave their tolerance on a busy machine."""
    per_example = np.array([1e-9 * file.path.stat().st_size for file in files])
    return batch * per_example * (1 + 1e-3 * np.arange(least))[:, None]


def _kept(measure):
    """Return `measure` asked once for each file, so that a changed claim costs no new process; every copy has the same names."""
    answers = {}

    def kept(file, *rest):
        if file.path.name not in answers:
            answers[file.path.name] = measure(file, *rest)
        return answers[file.path.name]

    return kept


@pytest.fixture
def folder(delivered, tmp_path):
    return shutil.copytree(delivered, tmp_path / "copy", ignore=shutil.ignore_patterns("work", "plots"))


def failed(folder):
    return [check.name for check in verify(folder).checks if not check.ok]


def _other(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "0" * 64
    return value - 0.3 if 0.3 < value <= 1 else 2 * value + 1


def change(folder, *path):
    receipt = json.loads((folder / "receipt.json").read_text())
    part = receipt
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = _other(part[path[-1]])
    (folder / "receipt.json").write_text(json.dumps(receipt))


def test_every_claim_of_an_untouched_folder_holds(folder):
    assert failed(folder) == []


@pytest.mark.parametrize(
    "path",
    [
        ("after", "accuracy"),
        ("before", "accuracy"),
        ("after", "file_bytes"),
        ("before", "file_bytes"),
        ("after", "parameters"),
        ("before", "parameters"),
        ("after", "nonzero_parameters"),
        ("after", "macs"),
        ("before", "macs"),
        ("after", "peak_memory_bytes"),
        ("after", "examples"),
        ("after", "accuracy_per_class", "a"),
        ("drop_points",),
        ("ratios", "smaller"),
        ("ratios", "faster", "median"),
        ("met",),
        ("hashes", "artifact"),
        ("hashes", "data"),
    ],
)
def test_a_changed_claim_is_named(path, folder):
    change(folder, *path)
    assert failed(folder)


def test_another_baseline_than_the_receipts_is_refused(folder):
    change(folder, "hashes", "baseline")
    with pytest.raises(LaconicError, match="not the baseline on the receipt"):
        verify(folder)


def test_a_baseline_that_was_removed_is_exported_anew(folder):
    (folder / "baseline.onnx").unlink()
    assert failed(folder) == []


def test_another_artifact_fails_on_its_checksum_and_nothing_else_is_claimed_of_it(folder):
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    assert failed(folder) == ["artifact sha256"]


@pytest.mark.parametrize("name", ["model.onnx", "receipt.json"])
def test_a_folder_that_is_not_whole_is_refused(name, folder):
    (folder / name).unlink()
    with pytest.raises(LaconicError, match=name):
        verify(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"before": '])
def test_a_receipt_that_is_none_is_refused(text, folder):
    (folder / "receipt.json").write_text(text)
    with pytest.raises(LaconicError, match="not a whole receipt"):
        verify(folder)


def test_the_command_ends_with_1_and_names_the_claim(folder, capfd):
    change(folder, "after", "accuracy")
    assert run("verify", folder, "--json") == 1
    checks = json.loads(capfd.readouterr().out)["checks"]
    assert [check["name"] for check in checks if not check["ok"]] == ["after.accuracy"]
