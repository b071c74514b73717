"""Scikit-learn's handwritten digits: 1,797, 8 x 8 grey with 17 levels; they come with the package, without a download.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from pathlib import Path

import numpy as np

from laconic.data.dataset import Dataset, Split
from laconic.data.pictures import moments
from laconic.data.splits import stratified


def digits(root: Path, seed: int, /) -> Dataset:
    """Cut the digits into 1,297 for training and 500 for the test, every class with its share, by `seed`."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.int64)
    test = stratified(labels, 500, np.random.default_rng(seed))
    train = np.delete(np.arange(len(labels)), test)
    mean, std = moments(images[train])
    source = "Optical Recognition of Handwritten Digits, Alpaydin and Kaynak, UCI; CC BY 4.0"
    every = Split(images, labels, mean, std)
    return Dataset(every.take(test), every.take(train), classes=tuple("0123456789"), name="digits", source=source)
