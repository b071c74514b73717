"""Contexts for the tiny networks of `networks.py`."""

import numpy as np
import pytest

from laconic.context import Context
from laconic.data import Split, Splits
from networks import NETWORKS


@pytest.fixture
def random_context():
    """A factory of contexts whose inputs are random numbers in the shape of an example."""

    def make(example, examples=64, **changes):
        generator = np.random.default_rng(0)
        inputs = generator.normal(size=(examples, *example[0].shape[1:])).astype(np.float32)
        if not example[0].is_floating_point():
            inputs = generator.integers(0, 11, size=(examples, *example[0].shape[1:]))
        part = Split(inputs, generator.integers(0, 5, examples))
        return Context(Splits(part, part, part, part), **changes)

    return make


@pytest.fixture
def context_of(random_context):
    """A factory of contexts by the name of a network."""
    return lambda name, *more, **changes: random_context(NETWORKS[name][1], *more, **changes)
