from pathlib import Path
from typing import Literal

import pytest

from laconic.errors import LaconicError
from laconic.imported import call, import_object, options


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_function_of_a_file_is_found_with_its_sibling_modules(tmp_path):
    write(tmp_path, "answer = 42", "laconic_test_sibling.py")
    place = write(tmp_path, "from laconic_test_sibling import answer\ndef make():\n    return answer")
    assert call(f"{place}:make", "model") == 42


def test_a_function_of_a_package_is_found():
    assert import_object("collections.abc:Iterable", "model").__name__ == "Iterable"


def test_options_reach_the_users_function_with_the_annotated_type(tmp_path):
    place = write(tmp_path, "def make(width: int = 1):\n    return width * 2")
    assert call(f"{place}:make", "model") == 2
    assert call(f"{place}:make?width=21", "model") == 42


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("x = 1", "absent.py:make", "no file .*absent.py"),
        ("x = 1", "mine.py", "must be written"),
        ("def maker(): ...", "mine.py:make", "did you mean 'maker'"),
        ("make = 1", "mine.py:make", "must be a function without arguments; it is a int"),
        ("\ndef make(:", "mine.py:make", "importing .*mine.py failed at .*mine.py:2: SyntaxError"),
        ("\n\n1 / 0", "mine.py:make", "importing .*mine.py failed at .*mine.py:3: ZeroDivisionError"),
        ("raise SystemExit(3)", "mine.py:make", "mine.py:1: SystemExit: 3"),
        ("import json\ndef make():\n    return json.loads('{')", "mine.py:make", "failed at .*mine.py:3: JSONDecodeError"),
        ("def make(x):\n    return x", "mine.py:make", "failed: TypeError: .*missing 1 required"),
        ("def make():\n    return 1", "mine.py:make?size=3", "has no options"),
    ],
)
def test_a_mistake_of_the_user_is_told_with_its_place(tmp_path, text, spec, message):
    write(tmp_path, text)
    with pytest.raises(LaconicError, match=message):
        call(f"{tmp_path}/{spec}", "model")


def test_a_package_that_is_absent_is_told():
    with pytest.raises(LaconicError, match="ModuleNotFoundError: No module named 'laconic_no_such'"):
        import_object("laconic_no_such.module:make", "data set")


def loader(place: Path, /, *, size: int = 1, kind: Literal["a", "b"] = "a") -> None: ...


def test_options_are_read_by_their_annotations():
    assert options(loader, "size=3&kind=b", "mine") == {"size": 3, "kind": "b"}
    assert options(loader, "", "mine") == {}


def free(place: Path, /, width: int = 1, **settings: object) -> None: ...


def test_a_function_that_takes_any_setting_gets_numbers_and_truths_as_such():
    query = "width=2&depth=3&rate=0.5&pretrained=true&kind=patch&sizes=[1,2]&settings=1"
    found = {"width": 2, "depth": 3, "rate": 0.5, "pretrained": True, "kind": "patch", "sizes": [1, 2], "settings": 1}
    assert options(free, query, "mine") == found


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("place=3", "unknown option of mine: 'place'; There are: kind, size"),
        ("siz=3", "did you mean 'size'"),
        ("size=big", "cannot take size=big: Input should be a valid integer"),
        ("kind=c", "cannot take kind=c: Input should be 'a' or 'b'"),
        ("size", "written name=value"),
    ],
)
def test_a_wrong_option_is_told_with_the_possible_ones(query, message):
    with pytest.raises(LaconicError, match=message):
        options(loader, query, "mine")
