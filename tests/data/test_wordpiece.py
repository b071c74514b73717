import pytest

from laconic.data.wordpiece import WordPiece, read_vocabulary, words
from laconic.errors import LaconicError

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "##a", "##f", "the", ",", "'", "中")


@pytest.fixture
def tokenizer():
    return WordPiece(PIECES)


def pieces(tokenizer, text, **more):
    return [PIECES[token] for token in tokenizer.encode(text, **more)]


def test_a_word_is_cut_into_the_longest_pieces_from_its_beginning(tokenizer):
    assert pieces(tokenizer, "unaffable") == ["[CLS]", "un", "##aff", "##able", "[SEP]"]
    assert pieces(tokenizer, "unaf") == ["[CLS]", "un", "##a", "##f", "[SEP]"]


def test_a_word_with_a_part_that_is_no_piece_is_unknown_as_a_whole(tokenizer):
    assert pieces(tokenizer, "the unaffx the") == ["[CLS]", "the", "[UNK]", "the", "[SEP]"]
    assert pieces(tokenizer, "un" + "a" * 99) == ["[CLS]", "[UNK]", "[SEP]"], "longer than 100 characters"
    assert pieces(tokenizer, "un" + "a" * 98).count("##a") == 98


def test_case_accents_and_control_characters_say_nothing(tokenizer):
    assert pieces(tokenizer, "ÚN\u200baff\0able") == pieces(tokenizer, "unaffable")


def test_punctuation_and_ideographs_are_words(tokenizer):
    assert words("the'un,中中") == ["the", "'", "un", ",", "中", "中"]
    assert words("a$b^c~d—e") == ["a", "$", "b", "^", "c", "~", "d", "—", "e"]
    assert words(" \t\r\n ") == []


def test_a_long_text_is_cut_and_keeps_its_end(tokenizer):
    assert pieces(tokenizer, "the the the the", length=4) == ["[CLS]", "the", "the", "[SEP]"]


def test_what_is_no_vocabulary_is_refused(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\nthe\n")
    with pytest.raises(LaconicError, match=r"lacks \[CLS\], \[SEP\]"):
        read_vocabulary(path)
    path.write_text("\n".join(PIECES), encoding="utf-8")
    assert read_vocabulary(path).pieces == PIECES
