import pytest
import torch

from laconic.errors import LaconicError, NotApplicableError
from laconic.program import weights
from laconic.prune import NofM
from laconic.prune.n_of_m import all_but_largest


def test_a_worked_example():
    weight = torch.tensor([[1.0, -3.0, 2.0, 0.5, 4.0, 4.0, -4.0, 1.0]])
    assert all_but_largest(weight, 2, 4, 1).tolist() == [[True, False, False, True, False, False, True, True]]
    assert all_but_largest(weight.T, 1, 2, 0).T.tolist() == [[True, False, False, True, False, True, False, True]]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8), (1, 2)])
def test_every_group_keeps_its_n_largest_and_no_others(n, m):
    weight = torch.randn(3, 8, 2)
    marked = all_but_largest(weight, n, m, 1)
    for row in range(3):
        for column in range(2):
            for start in range(0, 8, m):
                group, zeroed = weight[row, start : start + m, column].abs(), marked[row, start : start + m, column]
                assert (~zeroed).sum() == n
                assert group[zeroed].max() <= group[~zeroed].min()


def test_groups_run_along_the_input_channels_and_odd_layers_are_left_alone_when_told_so(program, context):
    NofM(indivisible="leave")(program, context)
    for weight in weights(program):
        zeros = weight.value == 0
        if weight.name == "stem.weight":
            assert not zeros.any()
        else:
            assert (zeros.unflatten(1, (-1, 4)).sum(2) == 2).all()
    assert context.notes[0] == "left alone, for their inputs are not a multiple of 4: stem.weight (1)"


def test_inputs_that_m_does_not_divide_are_an_error_before_any_work(program, context):
    with pytest.raises(NotApplicableError, match=r"not a multiple of m=4: stem\.weight \(1\); choose another m, exclude them"):
        NofM()(program, context)
    assert not any((weight.value == 0).any() for weight in weights(program))
    NofM(exclude=("stem",))(program, context)


def test_where_no_layer_can_be_divided_it_says_so(program, context):
    with pytest.raises(NotApplicableError, match="there is no layer whose inputs are a multiple of m=7"):
        NofM(m=7, indivisible="leave")(program, context)


def test_pruning_so_again_zeroes_nothing_more(program, context):
    NofM(include=("head",))(program, context)
    with pytest.raises(LaconicError, match=r"prune\.NofM would zero no weight that is not zero already"):
        NofM(include=("head",))(program, context)


def test_n_must_be_below_m():
    with pytest.raises(ValueError, match="n=4 of m=4 leaves every weight"):
        NofM(n=4)
