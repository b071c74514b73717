import itertools

import numpy as np
import pytest

from laconic.pack import reader
from laconic.pack.rate import code_tensor, decoded, differential_entropy, quality
from laconic.pack.trellis import CLASSES, LEVELS, best_multiples, quantizers
from laconic.pack.writer import Writer, file_of

DRAW = np.random.default_rng(0)


def a_table_of_bits():
    bits = np.ones((2, CLASSES, LEVELS + 1))
    bits[0, :, :LEVELS] = 0.4 + 1.7 * np.arange(LEVELS)
    bits[1, :, :LEVELS] = 0.9 + 1.1 * np.arange(LEVELS)
    return bits


NEARER = np.array([0, 0.1, 0.05])


def total(values, multiples, bits, worth, states):
    seconds = quantizers(multiples, states)
    errors = np.square(values - multiples + np.sign(multiples) * NEARER[np.minimum(np.abs(multiples), 2)]).sum()
    sizes = (np.abs(multiples) + seconds) // (2 if states else 1)
    return float(errors + worth * sum(bits[q, 0, min(size, LEVELS - 1)] for q, size in zip(seconds, sizes, strict=True)))


def possible(multiples, states):
    odd = np.array(multiples) & 1
    seconds = quantizers(np.array(multiples), states)
    zero = np.array(multiples) == 0
    return not states or bool(((odd == seconds) | (zero & (states > 0))).all())


@pytest.mark.parametrize("states", [0, 4, 8, -4, -8])
@pytest.mark.parametrize("worth", [0.05, 0.4, 1.5])
def test_no_other_multiples_cost_less(states, worth):
    values = DRAW.normal(size=4) * 2
    bits, classes = a_table_of_bits(), np.zeros(4, np.int64)
    found = best_multiples(values, np.ones(4), classes, bits, worth, states, NEARER)
    assert possible(found, states)
    every = (np.array(each) for each in itertools.product(range(-7, 8), repeat=4) if possible(each, states))
    assert total(values, found, bits, worth, states) == pytest.approx(min(total(values, each, bits, worth, states) for each in every))


def test_where_bits_cost_nothing_a_single_quantizer_rounds_to_nearest():
    values = DRAW.normal(size=500) * 5
    found = best_multiples(values, np.ones(500), np.zeros(500, np.int64), a_table_of_bits(), 0.0, 0, np.zeros(1))
    assert found.tolist() == np.round(values).tolist()


@pytest.mark.parametrize("states", [0, 8])
@pytest.mark.parametrize("shape", [(50,), (20, 30), (8, 4, 3, 3), (0, 3), ()])
def test_a_tensor_is_read_as_it_was_said_to_be(shape, states):
    array = DRAW.normal(size=shape).astype(np.float32)
    coded, found = code_tensor(array, -20, 0.1, states)
    read = reader.read(file_of({"w": coded}, {}))["w"]
    assert read.tobytes() == found.tobytes() == decoded(coded).tobytes()
    assert found.shape == shape


def test_a_finer_step_and_bits_worth_less_give_less_error_for_more_bytes():
    array = DRAW.laplace(size=(60, 80)).astype(np.float32)
    rows = []
    for step, worth in ((8, 0.3), (0, 0.3), (0, 0.1), (-16, 0.1)):
        coded, found = code_tensor(array, step, worth, 8)
        rows.append((len(file_of({"w": coded}, {})), float(((array - found) ** 2).mean())))
    assert sorted(rows) == rows
    assert sorted(rows, key=lambda row: -row[1]) == rows


def test_a_trellis_has_less_error_for_the_bits():
    array = DRAW.normal(size=(100, 300)).astype(np.float32)

    def gap(states, step, worth):
        coded, found = code_tensor(array, step, worth, states)
        writer = Writer()
        coded.write(writer)
        return 8 * len(writer.finish()) / array.size - quality(array, found).gaussian_bound

    scalar, four, eight, many = gap(0, -16, 0.12), gap(4, -27, 0.25), gap(8, -27, 0.25), gap(64, -27, 0.25)
    assert scalar - 0.08 > four > eight > many > 0.05


def test_important_entries_are_kept_nearer():
    array = DRAW.normal(size=(50, 60))
    importance = np.where(np.arange(60) < 30, 20.0, 0.1) * np.ones((50, 1))
    _, found = code_tensor(array, 0, 0.3, 8, importance)
    errors = ((array - found) ** 2).mean(0)
    assert errors[:30].mean() < errors[30:].mean() / 2


def test_the_estimated_entropy_of_a_gaussian_and_a_laplacian_is_near_the_true_one():
    assert differential_entropy(DRAW.normal(size=100_000)) == pytest.approx(np.log2(2 * np.pi * np.e) / 2, abs=0.02)
    assert differential_entropy(DRAW.laplace(size=100_000)) == pytest.approx(np.log2(2 * np.e), abs=0.02)


def test_the_bounds_are_those_of_the_theory():
    array = 3 * DRAW.normal(size=50_000)
    found = quality(array, array + 0.3 * DRAW.normal(size=50_000))
    assert found.decibels == pytest.approx(20, abs=0.1)
    assert found.gaussian_bound == pytest.approx(np.log2(10), abs=0.02)
    assert found.shannon_bound == pytest.approx(found.gaussian_bound, abs=0.03)
