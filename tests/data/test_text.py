"""Text as windows of tokens: tinyshakespeare's characters and the sample of stories."""

import numpy as np
import pytest

from laconic.data import check, load, parts
from laconic.data.bpe import read_tokenizer
from laconic.data.text import windows
from laconic.errors import LaconicError
from vocabulary import write

TEXT = "The first citizen: before we proceed any further, hear me speak.\n" * 40


@pytest.fixture
def root(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "tinyshakespeare.txt").write_text(TEXT)
    (tmp_path / "stories260k").mkdir()
    (tmp_path / "stories260k" / "tinystories_sample.txt").write_text(
        "\nabc abc\n<|endoftext|>\nbc\n<|endoftext|>\nab cab cab\n<|endoftext|>\n"
    )
    write(tmp_path / "stories260k" / "tok512.bin")
    return tmp_path


def test_the_label_of_each_position_is_the_next_token_and_each_is_labelled_once():
    split = windows(np.arange(11), 3)
    assert split.inputs.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert split.labels.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_windows_may_overlap():
    assert windows(np.arange(6), 3, stride=1).inputs.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_a_text_that_just_fills_a_window_is_one_and_a_shorter_one_is_refused():
    assert len(windows(np.arange(4), 3)) == 1
    with pytest.raises(LaconicError, match="length=3 needs 4 tokens; the text has 3"):
        windows(np.arange(3), 3)


def test_the_parts_of_tinyshakespeare_are_its_characters_in_order(root):
    data = load("tinyshakespeare?length=10&stride=10", root)
    read = {name: "".join(data.classes[token] for token in part.inputs.ravel()) for name, part in parts(data).items()}
    starts = {name: round(len(TEXT) * share) for name, share in (("train", 0), ("validation", 0.85), ("test", 0.9))}
    ends = {"train": starts["validation"], "validation": starts["test"], "test": len(TEXT)}
    for name, start in starts.items():
        assert TEXT[start : ends[name]].startswith(read[name])
        assert ends[name] - start - len(read[name]) <= 10
    assert data.test.tokens
    check(data)


def test_stories_are_halved_and_each_begins_with_the_mark_of_a_start(root):
    data, tokenizer = load("stories260k?length=2", root), read_tokenizer(root / "stories260k" / "tok512.bin")
    assert data.train is None
    for part, stories in ((data.calibration, ("abc abc", "bc")), (data.test, ("ab cab cab",))):
        stream = [token for story in stories for token in tokenizer.encode(story)]
        assert part.inputs.ravel().tolist() == stream[: part.inputs.size]
        assert part.labels.ravel().tolist() == stream[1 : part.labels.size + 1]
        assert len(stream) - part.labels.size <= 2


def test_what_is_not_there_is_named_with_where_to_get_it(tmp_path):
    for name in ("tinyshakespeare", "stories260k"):
        with pytest.raises(LaconicError, match="Download it from https://"):
            load(name, tmp_path)


def test_bytes_that_are_no_text_are_refused(root):
    (root / "text" / "tinyshakespeare.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(LaconicError, match="not text in UTF-8"):
        load("tinyshakespeare", root)
