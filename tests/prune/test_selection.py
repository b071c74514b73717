"""Which entries go, against what the words say, entry by entry."""

import pytest
import torch

from laconic.prune.selection import lowest, lowest_in_groups, lowest_of_rows


def test_the_lowest_of_all_are_as_many_as_asked_and_none_is_higher_than_one_that_stays():
    scores = torch.rand(4, 7)
    for count in (0, 1, 13, 28):
        marked = lowest(scores, count)
        assert marked.sum() == count
        assert count in (0, 28) or scores[marked].max() < scores[~marked].min()


@pytest.mark.parametrize("count", [0, 5, 12, 18, 23, 29, 30])
def test_rows_lose_the_same_number_or_one_more_and_each_its_lowest(count):
    scores = torch.rand(5, 6)
    marked = lowest_of_rows(scores, torch.zeros(5, 6, dtype=torch.bool), count)
    gone = marked.sum(1)
    assert gone.sum() == count
    assert gone.max() - gone.min() <= 1
    for row, mark, number in zip(scores, marked, gone, strict=True):
        assert set(mark.nonzero()[:, 0].tolist()) == set(row.argsort()[:number].tolist())


def test_the_rows_that_lose_one_more_are_those_where_it_scores_lowest():
    scores = torch.tensor([[1.0, 9.0, 10.0], [2.0, 3.0, 11.0], [4.0, 5.0, 12.0]])
    marked = lowest_of_rows(scores, torch.zeros(3, 3, dtype=torch.bool), 5)
    assert marked.tolist() == [[True, False, False], [True, True, False], [True, True, False]]


def test_what_is_held_counts_in_its_row_and_in_all():
    held = torch.tensor([[True, True, False, False], [False, False, False, False]])
    scores = torch.tensor([[9.0, 8.0, 1.0, 2.0], [3.0, 4.0, 5.0, 6.0]])
    assert lowest_of_rows(scores, held, 4).tolist() == [[True, True, False, False], [True, True, False, False]]
    assert lowest_of_rows(scores, held, 5).tolist() == [[True, True, True, False], [True, True, False, False]]
    assert torch.equal(lowest_of_rows(scores, held, 1), held), "more are held than asked for"


def test_of_every_group_the_highest_stay_and_what_is_held_is_among_those_that_go():
    scores, held = torch.rand(3, 5, 4), torch.rand(3, 5, 4) < 0.2
    held[0, 0] = torch.tensor([True, True, True, False])
    marked = lowest_in_groups(scores, held, 2)
    assert (marked | ~held).all()
    assert torch.equal(marked.sum(-1), held.sum(-1).clamp_min(2))
    for group, closed, mark in zip(scores.reshape(-1, 4), held.reshape(-1, 4), marked.reshape(-1, 4), strict=True):
        order = sorted(range(4), key=lambda i: (not closed[i], float(group[i])))
        assert set(mark.nonzero()[:, 0].tolist()) == set(order[: int(mark.sum())])
