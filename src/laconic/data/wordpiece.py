"""WordPiece tokens of lower-case English, as BERT reads text.

Sources: Y. Wu et al., "Google's Neural Machine Translation System: Bridging the Gap between Human and Machine Translation",
arXiv:1609.08144, section 4.1 (the longest piece first); J. Devlin et al., "BERT", NAACL 2019, whose published code splits words.
"""

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from laconic.errors import LaconicError

PADDING, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
_LONGEST = 100  # characters of a word; longer ones are unknown
_IDEOGRAPHS = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))  # words by themselves


@dataclass(frozen=True)
class WordPiece:
    """Text to token ids."""

    pieces: tuple[str, ...]  # by token id; those that continue a word begin with "##"
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {piece: number for number, piece in enumerate(self.pieces)})

    def encode(self, text: str, length: int | None = None) -> list[int]:
        """Return the token ids of `text` between those of its start and end; at most `length`, which cuts the text."""
        found = [token for word in words(text) for token in self._tokens(word)]
        cut = found if length is None else found[: length - 2]
        return [self._ids[START], *cut, self._ids[END]]

    def _tokens(self, word: str) -> list[int]:
        """Return the tokens of a word: the longest piece at its beginning, then the longest that goes on from there."""
        tokens, place = list[int](), 0
        while place < len(word) <= _LONGEST:
            mark = "##" if place else ""
            end = next((end for end in range(len(word), place, -1) if mark + word[place:end] in self._ids), None)
            if end is None:
                break
            tokens.append(self._ids[mark + word[place:end]])
            place = end
        return tokens if place == len(word) else [self._ids[UNKNOWN]]


def words(text: str) -> list[str]:
    """Split text into lower-case words without accents; every mark of punctuation is a word.

    >>> words("Déjà vu, isn't it?")
    ['deja', 'vu', ',', 'isn', "'", 't', 'it', '?']
    """
    plain = "".join(" " if character.isspace() else character for character in text if not _is_dropped(character))
    apart = "".join(f" {character} " if _is_ideograph(character) else character for character in plain)
    bare = (
        character for character in unicodedata.normalize("NFD", "".join(map(str.lower, apart))) if unicodedata.category(character) != "Mn"
    )
    return "".join(f" {character} " if _is_punctuation(character) else character for character in bare).split()


def _is_dropped(character: str) -> bool:
    return character in "\0\ufffd" or (unicodedata.category(character).startswith("C") and character not in "\t\n\r")


def _is_ideograph(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in _IDEOGRAPHS)


def _is_punctuation(character: str) -> bool:
    symbols_of_ascii = character.isascii() and character.isprintable() and not character.isalnum() and character != " "
    return symbols_of_ascii or unicodedata.category(character).startswith("P")


def read_vocabulary(path: Path) -> WordPiece:
    """Read BERT's `vocab.txt`: a piece a line, whose number, from 0, is the token id.

    Raises:
        LaconicError: the file is no such vocabulary.
    """
    pieces = tuple(path.read_text(encoding="utf-8").splitlines())
    missing = [piece for piece in (PADDING, UNKNOWN, START, END) if piece not in pieces]
    if missing:
        raise LaconicError(f"{path} is no vocabulary of BERT, a piece a line: it lacks {', '.join(missing)}")
    return WordPiece(pieces)
