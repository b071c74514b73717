"""Short stories in simple words, in the tokens of the network that was trained on such ones.

Source: R. Eldan, Y. Li, "TinyStories: How Small Can Language Models Be and Still Speak Coherent English?", arXiv:2305.07759.
"""

from itertools import chain
from pathlib import Path

import numpy as np

from laconic.data.bpe import read_tokenizer
from laconic.data.dataset import Dataset
from laconic.data.places import find
from laconic.data.text import Length, windows

_PAGE = "https://huggingface.co/karpathy/tinyllamas (stories260K/tok512.bin); the sample is from https://huggingface.co/datasets/roneneldan/TinyStories"
_END = "<|endoftext|>"


def stories260k(root: Path, seed: int, /, *, length: Length = 128) -> Dataset:
    """Read `stories260k/{tinystories_sample.txt,tok512.bin}`: the first half of the stories calibrates, the others are the test.

    Every story begins with the token that marks a start, as in training; windows run over their ends.

    Args:
        root: the data folder.
        seed: not used.
        length: tokens of a window.

    Raises:
        LaconicError: a file is absent or not whole.
    """
    folder = root / "stories260k"
    text = find([folder / "tinystories_sample.txt"], "the sample of TinyStories", _PAGE).read_text(encoding="utf-8")
    tokenizer = read_tokenizer(find([folder / "tok512.bin"], "stories260k's vocabulary", _PAGE))
    stories = [tokenizer.encode(story.strip()) for story in text.split(_END) if story.strip()]
    half = (len(stories) + 1) // 2
    calibration, test = (np.fromiter(chain(*part), np.int16) for part in (stories[:half], stories[half:]))
    source = "a sample of TinyStories, Eldan and Li 2023; CDLA-Sharing 1.0; vocabulary of karpathy/tinyllamas, MIT"
    return Dataset(windows(test, length), calibration=windows(calibration, length), name="stories260k", source=source)
