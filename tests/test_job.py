"""A job is checked whole before any work starts."""

import pytest
import torch

from laconic.errors import LaconicError
from laconic.job import Origin, described, environment, out_folder, portable, prepare
from laconic.program import save
from test_cli import user_file


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    return user_file(tmp_path_factory.mktemp("user"))


def origin(mine, model="model", data="data", **rest):
    return Origin(f"{mine}:{model}", f"{mine}:{data}", **rest)


def test_the_same_origin_is_the_same_network_and_the_same_data(mine):
    first, second = prepare(origin(mine), 1), prepare(origin(mine), 1)
    assert (first.model_hash, first.data_hash) == (second.model_hash, second.data_hash)


def test_other_data_have_another_hash_and_the_network_keeps_its_own(mine):
    first, second = prepare(origin(mine), 1), prepare(origin(mine, data="other_data"), 1)
    assert first.model_hash == second.model_hash
    assert first.data_hash != second.data_hash


def test_a_saved_program_is_the_network_it_was_saved_from(mine, tmp_path):
    job = prepare(origin(mine), 1)
    save(job.program, tmp_path / "program.safetensors")
    again = prepare(Origin(str(tmp_path / "program.safetensors"), f"{mine}:data"), 1)
    example = job.context.example()
    assert torch.equal(again.program(*example), job.program(*example))


def test_a_saved_program_says_which_inputs_it_takes_when_the_data_do_not_fit(mine, tmp_path):
    save(prepare(origin(mine), 1).program, tmp_path / "program.safetensors")
    with pytest.raises(LaconicError, match=r"takes inputs of shape \(4,\), the data has \(1, 8, 8\)"):
        prepare(Origin(str(tmp_path / "program.safetensors"), "digits"), 1)


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        ("not_a_number", "data", "NaN or infinite"),
        ("Branch", "data", "mine.py"),
        ("regression", "data", "one row of class scores"),
        ("model", "bad_labels", "label 7"),
        ("model", "raises", "KeyError"),
    ],
)
def test_what_could_not_work_later_is_refused_now(model, data, words, mine):
    with pytest.raises(LaconicError, match=words):
        prepare(origin(mine, model, data), 1)


def test_without_training_data_the_description_says_what_selection_used(mine):
    model, data = described(prepare(origin(mine, data="without_training"), 1))
    assert data["validation"].startswith("the calibration part")
    assert data["examples"] == {"calibration": 300, "validation": 300, "test": 90}
    assert model["inputs"] == [[4]]


def test_paths_below_the_data_folder_are_written_relative_to_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LACONIC_DATA", str(tmp_path))
    assert portable(tmp_path / "a" / "w.pt") == "$LACONIC_DATA/a/w.pt"
    assert portable(tmp_path.parent / "w.pt") == str(tmp_path.parent / "w.pt")
    assert portable(None) is None


def test_the_out_folder_is_made_and_left_empty(tmp_path):
    folder, store = out_folder(tmp_path / "new" / "out")
    assert list(folder.iterdir()) == []
    assert store.folder == folder / "work"


def test_the_environment_is_plain_text():
    assert all(isinstance(value, str) and value for value in environment().values())
