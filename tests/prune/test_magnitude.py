import math

import pytest
import torch
from torch import nn

from laconic.errors import LaconicError
from laconic.program import capture, packed, read, weights
from laconic.prune import Magnitude
from laconic.prune.magnitude import below_deviation, smallest, smallest_of_all
from laconic.recipe import apply
from laconic.tune import FineTune

# The mathematics


def test_the_smallest_of_a_worked_example():
    weight = torch.tensor([[3.0, -1.0, 0.5], [-4.0, 2.0, -0.25]])
    assert smallest(weight, 0.5).tolist() == [[False, True, True], [False, False, True]]
    assert smallest(weight, 0.34).tolist() == [[False, False, True], [False, False, True]]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 1 / 3, 0.5, 0.77, 0.999])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (4, 3, 3, 3)])
def test_the_share_is_exact_rounded_down_and_no_marked_entry_is_larger_than_one_that_stays(sparsity, shape):
    weight = torch.randn(shape)
    marked = smallest(weight, sparsity)
    assert marked.shape == weight.shape
    assert marked.sum() == math.floor(sparsity * weight.numel() + 1e-9)
    if marked.any():
        assert weight[marked].abs().max() <= weight[~marked].abs().min()


def test_among_equals_the_first_goes():
    assert smallest(torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.5).tolist() == [True, True, False, False]


def test_the_share_of_entries_that_a_decimal_names_is_not_one_short():
    """0.29 of 100 is 29, though 0.29 * 100 is 28.999999999999996 in floating point."""
    assert smallest(torch.rand(100), 0.29).sum() == 29
    assert smallest(torch.rand(1000), 0.57).sum() == 570


def test_marking_changes_no_weight():
    weight = torch.randn(50)
    before = weight.clone()
    smallest(weight, 0.5)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9])
def test_the_global_share_is_that_of_all_entries_in_one_row(sparsity):
    tensors = [torch.randn(4, 5) * 10, torch.randn(30), torch.randn(2, 3, 3) * 0.1]
    marked = smallest_of_all(tensors, sparsity)
    assert [m.shape for m in marked] == [t.shape for t in tensors]
    assert sum(int(m.sum()) for m in marked) == math.floor(sparsity * 68 + 1e-9)
    stay = torch.cat([t[~m].abs() for t, m in zip(tensors, marked, strict=True)])
    gone = torch.cat([t[m].abs() for t, m in zip(tensors, marked, strict=True)])
    assert not len(gone) or gone.max() <= stay.min()


def test_the_threshold_of_han_is_a_multiple_of_the_standard_deviation():
    weight = torch.tensor([2.0, -2.0, 4.0, -4.0])  # mean 0, mean square 10
    below = 2 / math.sqrt(10)
    assert below_deviation(weight, below * 1.001).tolist() == [True, True, False, False]
    assert below_deviation(weight, below * 0.999).tolist() == [False] * 4
    shifted = torch.tensor([1.0, 3.0])  # standard deviation 1, not root mean square 2.2
    assert below_deviation(shifted, 2.0).tolist() == [True, False]


# The step


def sparsities(program):
    return {weight.name: float((weight.value == 0).float().mean()) for weight in weights(program)}


def test_every_layer_gets_the_share(program, context):
    before = {weight.name: weight.value.clone() for weight in weights(program)}
    Magnitude(sparsity=0.75)(program, context)
    for weight in weights(program):
        marked = smallest(before[weight.name], 0.75)
        assert torch.equal(weight.value == 0, marked)
        assert torch.equal(weight.value[~marked], before[weight.name][~marked])


def test_half_is_the_default(program, context):
    Magnitude()(program, context)
    assert set(sparsities(program).values()) == {0.5}


def test_the_global_scope_prunes_layers_of_small_weights_more(program, context):
    with torch.no_grad():
        read(program, "head.weight").mul_(0.05)
    Magnitude(sparsity=0.5, scope="global")(program, context)
    found = sparsities(program)
    values = [weight.value for weight in weights(program)]
    assert sum(int((value == 0).sum()) for value in values) == sum(value.numel() for value in values) // 2
    assert found["head.weight"] > 0.9
    assert found["stem.weight"] < 0.1


def test_the_quality_gives_every_layer_its_own_threshold(program, context):
    before = {weight.name: weight.value.clone() for weight in weights(program)}
    Magnitude(quality=0.8)(program, context)
    for weight in weights(program):
        old = before[weight.name]
        threshold = 0.8 * math.sqrt(float(((old - old.mean()) ** 2).mean()))
        assert torch.equal(weight.value == 0, old.abs() < threshold)


def test_included_layers_are_pruned_and_others_not(program, context):
    Magnitude(sparsity=0.5, include=("left", "right.weight"))(program, context)
    assert {name for name, share in sparsities(program).items() if share} == {"left.weight", "right.weight"}


def test_excluded_layers_are_not_pruned_even_when_included(program, context):
    Magnitude(sparsity=0.5, include=("left", "right"), exclude=("right",))(program, context)
    assert {name for name, share in sparsities(program).items() if share} == {"left.weight"}


def test_a_pattern_that_matches_no_layer_is_told(program, context):
    with pytest.raises(LaconicError, match=r"unknown layer pattern 'head.wieght'; did you mean 'head.weight'"):
        Magnitude(exclude=("head.wieght",))(program, context)


def test_the_journal_has_the_share_of_each_layer(program, context):
    Magnitude(sparsity=0.75, include=("head",))(program, context)
    assert context.notes == ["head.weight: 75.0% of 2560 weights are zero"]


def test_zeros_hold_through_training_while_the_rest_moves(program, context):
    Magnitude(sparsity=0.6)(program, context)
    before = {weight.name: weight.value.clone() for weight in weights(program)}
    FineTune(epochs=3, learning_rate=0.1, weight_decay=0.1, autocast="off")(program, context)
    for weight in weights(program):
        old = before[weight.name]
        assert not weight.value[old == 0].any()
        assert (weight.value != old)[old != 0].float().mean() > 0.9


def test_a_pruned_network_is_pruned_further(program, context):
    done = apply(program, [Magnitude(sparsity=0.5), Magnitude(sparsity=0.8)], context)
    for weight in weights(done.program):
        assert (weight.value == 0).sum() == math.floor(0.8 * weight.value.numel())


def test_pruning_less_than_is_pruned_already_changes_nothing_and_says_so(program, context):
    with pytest.raises(LaconicError, match=r"already|nothing"):
        apply(program, [Magnitude(sparsity=0.8), Magnitude(sparsity=0.5)], context)


def test_pruning_everything_after_one_layer_frees_nothing_of_that_layer(program, context):
    done = apply(program, [Magnitude(sparsity=0.9, include=("head",)), Magnitude(sparsity=0.5)], context)
    found = sparsities(done.program)
    assert found.pop("head.weight") == pytest.approx(0.9)
    assert set(found.values()) == {0.5}


def test_a_layer_that_would_be_left_without_a_weight_is_told(program, context):
    with pytest.raises(LaconicError, match=r"no weight at all in stem.weight, left.weight, .*; lower the sparsity or the quality"):
        Magnitude(quality=100)(program, context)
    small = capture(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)), (torch.randn(2, 4),))
    with torch.no_grad():
        read(small, "1.weight").mul_(1e-6)
    with pytest.raises(LaconicError, match=r"no weight at all in 1\.weight;"):
        Magnitude(sparsity=0.7, scope="global")(small, context)


@pytest.mark.parametrize("settings", [{"quality": 1, "sparsity": 0.5}, {"quality": 1, "scope": "global"}])
def test_two_criteria_at_once_are_refused(settings):
    with pytest.raises(ValueError, match="either sparsity"):
        Magnitude(**settings)


def test_packed_bytes_fall_by_the_share_and_pay_a_bit_per_entry(program, context):
    Magnitude(sparsity=0.75)(program, context)
    assert packed(program, "head.weight").bytes == 2560 // 4 * 4 + 2560 // 8


def test_a_tied_weight_is_pruned_once_and_stays_tied(context):
    embedding, head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
    head.weight = embedding.weight
    tied = capture(nn.Sequential(embedding, head), (torch.tensor([[1, 2], [3, 4]]),))
    Magnitude(sparsity=0.5)(tied, context)
    [weight] = weights(tied)
    assert len(weight.readers) == 2
    assert (weight.value == 0).sum() == 12
