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


TOKENS = """
import numpy as np
import torch
from torch import nn
import laconic


def data(tokens=10, dtype=int):
    windows = np.arange(9 * 80).reshape(80, 9) % tokens
    split = laconic.Split(windows[:, :-1].astype(dtype), windows[:, 1:])
    return laconic.Dataset(split, split)


def too_many_tokens():
    return data(12)


def floats():
    return data(dtype=float)


def model():
    return nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 10))


def classifier():
    return nn.Sequential(nn.Embedding(10, 6), nn.Flatten(), nn.Linear(48, 10))


def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 10))
"""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens.py"
    path.write_text(TOKENS)
    return path


def test_a_language_model_is_a_job(tokens):
    job = prepare(origin(tokens), 1)
    assert job.program.inputs[0].dtype == torch.int64
    assert job.program(*job.context.example()).shape == (2, 8, 10)


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        ("model", "too_many_tokens", "token 11 of train is out of range: the network knows 10"),
        ("classifier", "data", "one row of class scores per position"),
        ("dense", "data", "int64 inputs of shape .* are taken for token ids"),
        ("model", "floats", "float32 inputs of shape"),
    ],
)
def test_tokens_that_do_not_fit_the_network_are_refused(model, data, words, tokens):
    with pytest.raises(LaconicError, match=words):
        prepare(origin(tokens, model, data), 1)


def test_a_saved_program_says_which_type_of_inputs_it_takes(tokens, tmp_path):
    save(prepare(origin(tokens), 1).program, tmp_path / "program.safetensors")
    with pytest.raises(LaconicError, match="takes int64 inputs; the data gives float32"):
        prepare(Origin(str(tmp_path / "program.safetensors"), f"{tokens}:floats"), 1)


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
