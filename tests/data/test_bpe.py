"""A vocabulary of llama2.c, written byte by byte, and what it makes of text."""

import pytest

from laconic.data.bpe import Tokenizer, read_tokenizer
from laconic.errors import LaconicError
from vocabulary import PIECES, SCORES, write


@pytest.fixture
def tokenizer(tmp_path):
    return read_tokenizer(write(tmp_path / "tok.bin"))


def pieces(tokenizer, text):
    return [tokenizer.pieces[token] for token in tokenizer.encode(text)]


def test_the_file_is_read_as_it_was_written(tokenizer):
    assert tokenizer == Tokenizer(PIECES, SCORES)


def test_pairs_are_joined_by_their_score_not_from_left_to_right(tokenizer):
    assert pieces(tokenizer, "abc") == [b"\n<s>\n", b" ab", b"c"], "ab first (-1), so that bc and  a are out of reach, then  ab (-4)"
    assert pieces(tokenizer, "cbc") == [b"\n<s>\n", b" ", b"c", b"bc"]


def test_a_character_that_is_no_piece_becomes_its_bytes(tokenizer):
    assert pieces(tokenizer, "aé") == [b"\n<s>\n", b" a", b"<0xC3>", b"<0xA9>"]


@pytest.mark.parametrize("text", ["", "abc", " a  b", "aé\nc", "<0x41>"])
def test_decoding_gives_the_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("broken", [{"longest": 3}, {"cut": 2}, {"cut": 10}])
def test_a_damaged_vocabulary_is_refused(tmp_path, broken):
    with pytest.raises(LaconicError, match="not a whole vocabulary"):
        read_tokenizer(write(tmp_path / "tok.bin", **broken))
