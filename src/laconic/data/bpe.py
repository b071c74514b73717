"""Byte-pair encoding with a vocabulary as llama2.c stores it.

Sources: R. Sennrich, B. Haddow, A. Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016; T. Kudo,
J. Richardson, "SentencePiece", EMNLP 2018, with its bytes in place of unknown characters and a space before the text.
"""

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from laconic.errors import LaconicError

START, _FIRST_BYTE = 1, 3  # token ids: the start of a text; the byte 0, before the other bytes


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back."""

    pieces: tuple[bytes, ...]  # by token id
    scores: tuple[float, ...]  # the pair whose piece has the highest is joined first

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, after the one that marks its start."""
        ids = {piece: number for number, piece in reversed(list(enumerate(self.pieces)))}
        tokens = list[int]()
        for character in f" {text}" if text else "":
            code = character.encode()
            tokens += [ids[code]] if code in ids else [byte + _FIRST_BYTE for byte in code]
        while joined := self._best(tokens, ids):
            place, token = joined
            tokens[place : place + 2] = [token]
        return [START, *tokens]

    def _best(self, tokens: list[int], ids: dict[bytes, int]) -> tuple[int, int] | None:
        """Return the place of the pair to join, the first of the best, and the token that it becomes; None: no pair is a piece."""
        pairs = [(place, ids.get(self.pieces[one] + self.pieces[other])) for place, (one, other) in enumerate(pairwise(tokens))]
        known = [(place, token) for place, token in pairs if token is not None]
        return max(known, key=lambda pair: self.scores[pair[1]], default=None)

    def decode(self, tokens: list[int]) -> str:
        """Return the text that token ids stand for; marks of start and end stand for nothing."""
        pieces = [bytes([token - _FIRST_BYTE]) if self._is_byte(token) else self.pieces[token] for token in tokens if token >= _FIRST_BYTE]
        return b"".join(pieces).decode(errors="replace").removeprefix(" ")

    def _is_byte(self, token: int) -> bool:
        return _FIRST_BYTE <= token < _FIRST_BYTE + 256


def read_tokenizer(path: Path) -> Tokenizer:
    """Read llama2.c's `tokenizer.bin`: the longest length, then of every token a float32 score, an int32 length and its bytes.

    Raises:
        LaconicError: the file is not whole.
    """
    content, place, pieces, scores = path.read_bytes(), 4, list[bytes](), list[float]()
    try:
        (longest,) = struct.unpack_from("<i", content)
        while place < len(content):
            score, length = struct.unpack_from("<fi", content, place)
            place += 8 + length
            if not 0 <= length <= longest or place > len(content):
                raise ValueError(f"token {len(pieces)} has a length of {length} bytes, of at most {longest}")
            pieces.append(content[place - length : place])
            scores.append(score)
    except (struct.error, ValueError) as error:
        raise LaconicError(f"{path} is not a whole vocabulary of llama2.c: {error}") from error
    return Tokenizer(tuple(pieces), tuple(scores))
