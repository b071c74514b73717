"""Text for language models: windows of a fixed length on a stream of tokens, the next token the label of each position."""

from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import Field

from laconic.data.dataset import Dataset, Split
from laconic.data.places import find
from laconic.errors import LaconicError

_PAGE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_VALIDATION, _TEST = 0.05, 0.1  # shares of the characters: the last ones

Length = Annotated[int, Field(ge=2)]
Stride = Annotated[int, Field(ge=1)]


def windows(tokens: NDArray[np.integer], length: int, stride: int | None = None) -> Split:
    """Cut a stream of tokens into windows; what is left at its end, shorter than a window, is not used.

    Args:
        tokens: token ids, in order.
        length: positions of a window.
        stride: from the start of one window to that of the next; None: `length`, so that each position is labelled once.

    Raises:
        LaconicError: the stream is too short for one window.
    """
    if len(tokens) <= length:
        raise LaconicError(f"a window of length={length} needs {length + 1} tokens; the text has {len(tokens)}: choose a smaller length")
    every = sliding_window_view(tokens, length + 1)[:: stride or length]
    return Split(every[:, :-1], every[:, 1:])


def tinyshakespeare(root: Path, seed: int, /, *, length: Length = 256, stride: Stride = 64) -> Dataset:
    """Read `text/tinyshakespeare.txt` or `tinyshakespeare/input.txt` as characters: 65 tokens, in the order of their code points.

    The first 85 % of the characters are for training, the next 5 % for validation and the last 10 % the test.

    Args:
        root: the data folder.
        seed: not used.
        length: characters of a window.
        stride: characters between the starts of training windows, which may overlap; those of the other parts do not.

    Raises:
        LaconicError: the file is absent or no text, or shorter than its parts need.
    """
    path = find([root / "text" / "tinyshakespeare.txt", root / "tinyshakespeare" / "input.txt"], "tinyshakespeare", _PAGE)
    characters, tokens = _characters(path)
    test, validation = (round(len(tokens) * (1 - share)) for share in (_TEST, _TEST + _VALIDATION))
    return Dataset(
        windows(tokens[test:], length),
        windows(tokens[:validation], length, stride),
        validation=windows(tokens[validation:test], length),
        classes=characters,
        name="tinyshakespeare",
        source="tinyshakespeare, from the plays of W. Shakespeare, as in karpathy/char-rnn; public domain",
    )


def _characters(path: Path) -> tuple[tuple[str, ...], NDArray[np.int16]]:
    """Return the characters of a text file, each once, and the text as their numbers."""
    try:
        codes = np.frombuffer(path.read_text(encoding="utf-8").encode("utf-32-le"), np.uint32)
    except UnicodeDecodeError as error:
        raise LaconicError(f"{path} is not text in UTF-8: {error}; download it again from {_PAGE}") from error
    known, tokens = np.unique(codes, return_inverse=True)
    return tuple(map(chr, known)), tokens.astype(np.int16)
