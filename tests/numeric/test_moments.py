"""Second moments: against sums by hand, and against the truth where few examples are seen."""

import pytest
import torch

from laconic.numeric.elimination import elimination
from laconic.numeric.moments import Moments

INPUTS = 6


def seen(rows, examples, at_once=None):
    """Return the moments of rows (examples * positions, in), taken in `at_once` examples at a time."""
    moments = Moments.of(rows.shape[1])
    for part in rows.reshape(examples, -1, rows.shape[1]).split(at_once or examples):
        moments.add(part.flatten(0, 1), len(part))
    return moments


def rows_of(examples, positions, inputs=INPUTS):
    """Return rows whose inputs, and whose positions within an example, are correlated."""
    of_example = torch.randn(examples, 1, inputs)
    return ((of_example + 0.3 * torch.randn(examples, positions, inputs)) @ torch.randn(inputs, inputs)).flatten(0, 1)


@pytest.mark.parametrize("positions", [1, 4, 20])
@pytest.mark.parametrize("at_once", [1, 3, 12])
def test_mean_is_that_of_all_rows(positions, at_once):
    rows = rows_of(12, positions)
    found = seen(rows, 12, at_once).mean
    torch.testing.assert_close(found, (rows.T @ rows / len(rows)).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions", [1, 4, 20])
def test_doubt_is_the_summed_variance_of_the_means_over_their_summed_squares(positions):
    """Schaefer and Strimmer's estimate, element by element, in the order that they give it."""
    rows = rows_of(12, positions)
    each = torch.stack([part.T @ part / positions for part in rows.double().reshape(12, positions, INPUTS)])
    off = ~torch.eye(INPUTS, dtype=torch.bool)
    expected = (each.var(0) / 12)[off].sum() / each.mean(0).square()[off].sum()
    assert seen(rows, 12, 5).doubt == pytest.approx(float(expected), rel=1e-4)


def test_one_example_says_nothing_about_how_inputs_go_together():
    moments = seen(rows_of(1, 20), 1)
    assert moments.doubt == 1
    torch.testing.assert_close(moments.shrunk, moments.mean.diagonal().diag())


def test_uncorrelated_inputs_of_a_single_one_are_drawn_nowhere():
    moments = seen(torch.randn(10, 1), 10)
    torch.testing.assert_close(moments.shrunk, moments.mean)


def test_doubt_falls_as_examples_come():
    rows = rows_of(400, 2)
    doubts = [seen(rows[: 2 * examples], examples).doubt for examples in (10, 50, 400)]
    assert doubts[0] > doubts[1] > doubts[2]
    assert doubts[2] < 0.05


def test_shrunk_moments_of_few_examples_are_nearer_to_the_truth():
    mixing = torch.randn(100, 100) / 10
    truth = (mixing.T @ mixing).double()
    moments = seen(torch.randn(30, 100) @ mixing, 30)
    assert (moments.shrunk - truth).norm() < 0.8 * (moments.mean - truth).norm()


def test_inputs_are_not_free_to_go_because_few_examples_were_seen():
    """With fewer examples than inputs the others can make up for any of them on these examples, and on no new one."""
    weight, importance = torch.randn(4, 100), torch.ones(4)
    moments = seen(torch.randn(30, 100), 30)
    gone = torch.arange(100)[:, None]
    true = weight.square().sum(0).double()  # inputs are independent, of variance one
    taken_as_seen, shrunk = (elimination(weight, of, importance).costs(gone) for of in (moments.mean, moments.shrunk))
    assert taken_as_seen.mean() < 0.01 * true.mean()
    assert 0.5 * true.mean() < shrunk.mean() < 1.5 * true.mean()
