import numpy as np
import pytest

from laconic.data.dataset import Split
from laconic.errors import LaconicError
from laconic.measure import accuracy


def split_of(scores, labels):
    """A split whose inputs are the scores that the network is to return."""
    return Split(np.asarray(scores, dtype=np.float32), np.asarray(labels))


def itself(batch):
    return batch


def test_top1_is_the_share_of_examples_whose_highest_score_is_the_label():
    found = accuracy(itself, split_of([[1, 2], [2, 1], [0, 3], [5, 4]], [1, 0, 0, 1]))
    assert found.top1 == 0.5
    assert found.examples == 4


def test_both_accuracies_agree_with_sorting_the_scores():
    draw = np.random.default_rng(0)
    scores, labels = draw.normal(size=(200, 9)).astype(np.float32), draw.integers(0, 9, 200)
    best = np.argsort(-scores, axis=1)
    found = accuracy(itself, split_of(scores, labels), batch=7)
    assert found.top1 == np.mean(best[:, 0] == labels)
    assert found.top5 == np.mean([label in row for label, row in zip(labels, best[:, :5], strict=True)])


def test_a_network_that_always_says_the_same_gains_nothing_from_ties():
    found = accuracy(itself, split_of(np.zeros((10, 10)), range(10)))
    assert found.top1 == 0.1
    assert found.top5 == 0.5


def test_there_is_no_top5_of_five_classes():
    assert accuracy(itself, split_of(np.eye(5), range(5))).top5 is None
    assert accuracy(itself, split_of(np.eye(6), range(6))).top5 == 1.0


def test_per_class_accuracy_names_only_the_classes_that_occur():
    found = accuracy(itself, split_of([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]], [0, 0, 2, 2]))
    assert found.per_class == {0: 0.5, 2: 1.0}


def test_batches_do_not_change_the_answer_and_progress_reaches_the_end():
    draw, told = np.random.default_rng(1), []
    split = split_of(draw.normal(size=(10, 7)), draw.integers(0, 7, 10))
    some = accuracy(itself, split, batch=4, progress=lambda done, total: told.append((done, total)))
    assert some == accuracy(itself, split, batch=100)
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_inputs_reach_the_network_normalised():
    split = Split(np.array([[10, 20], [30, 20]], dtype=np.uint8), np.array([1, 0]), mean=(20, 20), std=(10, 10))
    seen = []
    accuracy(lambda batch: seen.append(batch) or batch, split)
    assert seen[0].tolist() == [[-1, 0], [1, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_refused_and_located(bad):
    scores = np.zeros((6, 3))
    scores[5, 1] = bad
    with pytest.raises(LaconicError, match="for 1 of 2 examples, first number 5"):
        accuracy(itself, split_of(scores, np.zeros(6, dtype=int)), batch=4)


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_that_the_network_has_no_class_for_is_refused(label):
    with pytest.raises(LaconicError, match=r"3 classes, but labels go from"):
        accuracy(itself, split_of(np.zeros((2, 3)), [0, label]))


def test_an_output_without_a_class_axis_is_refused():
    with pytest.raises(LaconicError, match="one row of class scores per example"):
        accuracy(lambda batch: batch.sum(axis=1), split_of(np.zeros((2, 3)), [0, 1]))


def test_sequences_are_scored_at_every_position_and_perplexity_is_the_inverse_geometric_mean_of_the_chances():
    scores, labels = np.log([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], [[0.2, 0.2, 0.6], [0.3, 0.3, 0.4]]]), np.array([[0, 1], [1, 2]])
    found = accuracy(itself, split_of(7.0 + scores, labels), batch=1)
    assert found.top1 == 0.75
    assert found.perplexity == pytest.approx((0.5 * 0.8 * 0.2 * 0.4) ** -0.25)
    assert (found.examples, found.per_class, found.top5) == (2, {}, None)


def test_classifiers_have_no_perplexity():
    assert accuracy(itself, split_of(np.eye(3), range(3))).perplexity is None


def test_vectors_are_scored_by_the_cosine_with_the_outputs_whatever_their_length():
    outputs, vectors = np.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]), np.array([[30.0, 40.0], [1.0, 1.0], [-2.0, 0.0]], np.float32)
    found = accuracy(itself, split_of(outputs, vectors), batch=2)
    assert found.top1 == pytest.approx((1 + 0.5**0.5 - 1) / 3)
    assert found.lowest_cosine == pytest.approx(-1)
    assert (found.examples, found.per_class, found.top5, found.perplexity) == (3, {}, None, None)


def test_outputs_of_another_length_than_the_vectors_are_refused():
    with pytest.raises(LaconicError, match="gives 3 numbers for an example, and the vectors have 2"):
        accuracy(itself, split_of(np.ones((4, 3)), np.ones((4, 2), np.float32)))


def test_one_row_of_scores_for_a_whole_sequence_is_refused():
    with pytest.raises(LaconicError, match="one row of class scores per position"):
        accuracy(lambda batch: batch.sum(axis=1), split_of(np.zeros((2, 5, 3)), np.zeros((2, 5), int)))
