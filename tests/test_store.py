import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from laconic.errors import LaconicError
from laconic.program import Mask, load, represent
from laconic.receipt import JournalEntry
from laconic.store import Store, key, read_json, writable

ENTRY = JournalEntry("prune.Magnitude", {"sparsity": 0.5, "exclude": ["head"]}, 0.25, 400, 200, 10, 10, 0.1 + 0.2, 0.97, ("half", "ß"))


def test_equal_content_has_an_equal_name_in_whatever_order():
    assert key({"a": 1, "b": [2, None]}) == key({"b": [2, None], "a": 1})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (({"a": 1},), ({"a": 2},)),
        (({"a": 1},), ({"b": 1},)),
        (([1, 2],), ([2, 1],)),
        ((1, 2), (2, 1)),
        (("1",), (1,)),
        ((None,), (0,)),
        ((True,), (1,)),
        (("a", "b"), ("ab",)),
        ((["a"], "b"), (["a", "b"],)),
        ((0.1,), (0.1 + 2**-56,)),
    ],
)
def test_other_content_has_another_name(one, other):
    assert key(*one) != key(*other)


def test_names_are_the_same_in_every_process():
    command = "from laconic.store import key; print(key({'b': 1, 'a': [0.1, 'ß', None]}))"
    finished = subprocess.run([sys.executable, "-c", command], env={"PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True)
    assert finished.stdout == key({"a": [0.1, "ß", None], "b": 1}) + "\n"


def test_what_json_cannot_hold_has_no_name():
    with pytest.raises(TypeError):
        key(object())


def test_a_step_that_is_not_kept_is_not_found(tmp_path):
    assert Store(tmp_path / "absent").step("name") is None


def test_a_finished_step_comes_back_as_it_was(tmp_path, program, context):
    represent(program, "head.weight", Mask(torch.rand(10, 256) > 0.5))
    store = Store(tmp_path / "work")
    store.keep_step("name", program, ENTRY)
    again, entry = store.step("name")
    assert entry == ENTRY
    assert torch.equal(again(*context.example(20)), program(*context.example(20)))
    assert store.step("other") is None


def test_a_step_is_finished_when_its_entry_is_there(tmp_path, program, monkeypatch):
    def killed(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr("laconic.store.write_text", killed)
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.keep_step("name", program, ENTRY)
    assert [path.name for path in tmp_path.iterdir()] == ["name.safetensors"]
    assert store.step("name") is None
    monkeypatch.undo()
    store.keep_step("name", program, ENTRY)
    assert store.step("name")[1] == ENTRY


def test_keeping_again_replaces(tmp_path, program):
    store = Store(tmp_path)
    store.keep_step("name", program, ENTRY)
    store.keep_step("name", program, replace(ENTRY, seconds=9.0))
    assert store.step("name")[1].seconds == 9.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["name.json", "name.safetensors"]


def test_a_damaged_program_in_the_store_is_as_if_it_were_not_there(tmp_path, program):
    store = Store(tmp_path)
    store.keep_step("name", program, ENTRY)
    path = tmp_path / "name.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(LaconicError, match="damaged"):
        load(path)
    assert store.step("name") is None


def test_a_value_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"top1": 0.1 + 0.2, "per_class": [1, None]}

    store = Store(tmp_path / "new")
    first, second = store.value("name", make), store.value("name", make)
    assert first == second == {"top1": 0.1 + 0.2, "per_class": [1, None]}
    assert len(made) == 1
    store.value("other", make)
    assert len(made) == 2


def test_work_that_fails_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.value("name", fail)
    assert not list(tmp_path.iterdir())
    assert store.value("name", lambda: 3) == 3


def test_unfinished_work_has_a_folder_of_its_own(tmp_path):
    store = Store(tmp_path)
    folders = {store.checkpoints("one"), store.checkpoints("two")}
    assert len(folders) == 2
    assert all(folder.parent == tmp_path for folder in folders)


def test_a_folder_that_can_be_written_is_made_and_left_empty(tmp_path):
    folder = tmp_path / "a" / "b"
    assert writable(folder) == folder
    assert folder.is_dir()
    assert not list(folder.iterdir())


def test_a_place_that_cannot_be_written_is_told_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LaconicError, match=r"cannot write .*; choose another --out or make room"):
        writable(tmp_path / "file")
    with pytest.raises(LaconicError, match="cannot write"):
        writable(tmp_path / "file" / "below")


def test_json_that_is_absent_or_none_is_told(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "good.json").write_text('{"ä": 1}', encoding="utf-8")
    assert read_json(tmp_path / "good.json") == {"ä": 1}
    for name in ("bad", "absent"):
        with pytest.raises(LaconicError, match=f"{name}.json cannot be read: "):
            read_json(tmp_path / f"{name}.json")
