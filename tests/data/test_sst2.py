import numpy as np
import pytest
import torch

from laconic import data
from laconic.errors import LaconicError

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "sst2"
    folder.mkdir()
    for name, lines in {
        "train": ["good film\t1", "bad film\t0"],
        "dev": ["film\t0"],
        "test": ["good good good good\t1", "strange film\t0"],
    }.items():
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    (folder / "vocab.txt").write_text("\n".join(PIECES))
    return tmp_path


def test_sentences_are_token_ids_filled_up_to_one_length(root):
    found = data.load("sst2?length=5", root)
    assert found.train.inputs.tolist() == [[2, 4, 6, 3, 0], [2, 5, 6, 3, 0]]
    assert found.validation.inputs.tolist() == [[2, 6, 3, 0, 0]]
    assert found.test.inputs.tolist() == [[2, 4, 4, 4, 3], [2, 1, 6, 3, 0]]
    assert found.train.labels.tolist() == [1, 0]
    assert found.test.tokens
    assert found.test.arrays(slice(0, 1)).dtype == np.int64


def test_the_vocabulary_may_lie_elsewhere(root):
    other = root / "other.txt"
    (root / "sst2" / "vocab.txt").rename(other)
    assert data.load(f"sst2?length=5&vocabulary={other}", root).train.inputs[0].tolist() == [2, 4, 6, 3, 0]
    with pytest.raises(LaconicError, match=r"vocabulary \(vocab.txt\) not found"):
        data.load("sst2?vocabulary=nowhere.txt", root)


@pytest.mark.parametrize("line", ["no label", "good film\t2", "good film 1"])
def test_other_lines_are_refused_with_their_number(root, line):
    (root / "sst2" / "dev.tsv").write_text(f"film\t0\n{line}\n")
    with pytest.raises(LaconicError, match=r"dev.tsv line 2 is not a sentence, a tab and 0 or 1"):
        data.load("sst2", root)


def test_hidden_words_are_drawn_anew_and_what_is_no_word_stays(root):
    (root / "sst2" / "vocab.txt").write_text("\n".join([*PIECES, "[MASK]"]))
    found = data.load("sst2?length=6&masked=0.5", root)
    tokens = torch.tensor([[2, 4, 6, 5, 3, 0]]).repeat(2000, 1)
    hidden = found.augment(tokens, torch.Generator().manual_seed(0))
    assert hidden[:, 0].eq(2).all()
    assert hidden[:, 4:].eq(torch.tensor([3, 0])).all()
    assert set(hidden[:, 1].tolist()) == {4, 7}
    assert hidden[:, 1:4].eq(7).float().mean() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(tokens[0], torch.tensor([2, 4, 6, 5, 3, 0]))
    drawn = found.augment.draw(2000, torch.Generator().manual_seed(1))
    assert torch.equal(found.augment.apply(tokens[5:9], drawn[5:9]), found.augment.apply(tokens, drawn)[5:9])
    assert data.load("sst2?length=6", root).augment is None


def test_words_cannot_be_hidden_without_a_token_that_hides_them(root):
    with pytest.raises(LaconicError, match=r"vocabulary with the piece \[MASK\]"):
        data.load("sst2?masked=0.5", root)
