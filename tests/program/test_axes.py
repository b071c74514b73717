"""The axis algebra: terms meet, are refined, and say which positions stay."""

import numpy as np
import pytest

from laconic.program.axes import UNIT, Algebra, MisfitError, Product, Sum, concatenation, product


def leaves(algebra, term):
    return [algebra.sizes[number] for number in algebra.leaves(term)]


def test_two_symbols_that_meet_come_and_go_together():
    algebra = Algebra()
    a, b = algebra.new(8), algebra.new(8)
    algebra.unify(a, b)
    assert list(algebra.leaves(a)) == list(algebra.leaves(b))


def test_dimensions_of_different_sizes_do_not_fit():
    algebra = Algebra()
    with pytest.raises(MisfitError, match="8 channels meet 6"):
        algebra.unify(algebra.new(8), algebra.new(6))


def test_a_reshape_refines_a_symbol_into_factors_and_they_stay_the_symbols():
    algebra = Algebra()
    whole = algebra.new(576)
    three, rest = algebra.split_product(whole, 3, 192)
    heads, dim = algebra.split_product(rest, 6, 32)
    assert leaves(algebra, whole) == [3, 6, 32]
    assert algebra.normal(whole) == product([three, heads, dim])


def test_a_concatenation_met_by_one_symbol_splits_it_into_the_parts():
    algebra = Algebra()
    first, second, whole = algebra.new(3), algebra.new(5), algebra.new(8)
    algebra.unify(whole, concatenation([first, second]))
    assert algebra.normal(whole) == Sum((algebra.normal(first), algebra.normal(second)))


def test_concatenations_cut_at_different_places_are_refined_to_the_finest():
    algebra = Algebra()
    one = concatenation([algebra.new(4), algebra.new(6)])
    other = concatenation([algebra.new(7), algebra.new(3)])
    algebra.unify(one, other)
    assert leaves(algebra, one) == leaves(algebra, other) == [4, 3, 3]
    assert list(algebra.leaves(one)) == list(algebra.leaves(other))


def test_channel_shuffle_of_a_concatenation_makes_its_equal_parts_one():
    algebra = Algebra()
    first, second = algebra.new(6), algebra.new(6)
    outer, inner = algebra.split_product(concatenation([first, second]), 2, 6)
    shuffled = product([inner, outer])
    assert algebra.normal(first) == algebra.normal(second)
    assert leaves(algebra, shuffled) == [6]
    assert algebra.size(shuffled) == 12


def test_boundaries_that_never_meet_are_a_misfit():
    algebra = Algebra()
    a = product([algebra.new(4), algebra.new(6)])
    b = product([algebra.new(6), algebra.new(4)])
    with pytest.raises(MisfitError):
        algebra.unify(a, b)


def test_what_is_frozen_stays_frozen_in_its_pieces_and_in_what_meets_it():
    algebra = Algebra()
    frozen, free = algebra.new(8, "the input"), algebra.new(8)
    algebra.split_product(frozen, 2, 4)
    algebra.unify(free, frozen)
    assert {algebra.frozen[number] for number in algebra.leaves(free)} == {"the input"}


def test_the_positions_that_stay_are_those_of_a_brute_force_count():
    algebra = Algebra()
    a, b, c = algebra.new(3), algebra.new(4), algebra.new(5)
    term = Sum((Product((a, b)), c, Product((b, a))))
    [number_a], [number_b] = list(algebra.leaves(a)), list(algebra.leaves(b))
    keep = {number_a: [0, 2], number_b: [1, 2, 3]}
    expected, position = [], 0
    for outer, inner in (("a", "b"), (None, "c"), ("b", "a")):
        sizes, kept = {"a": 3, "b": 4, "c": 5, None: 1}, {"a": {0, 2}, "b": {1, 2, 3}, "c": set(range(5)), None: {0}}
        for i in range(sizes[outer]):
            for j in range(sizes[inner]):
                if i in kept[outer] and j in kept[inner]:
                    expected.append(position)
                position += 1
    assert algebra.kept(term, keep).tolist() == expected


def test_every_position_knows_its_channel():
    algebra = Algebra()
    heads, dim = algebra.new(2), algebra.new(3)
    [number] = list(algebra.leaves(dim))
    assert algebra.channel_of(product([heads, dim]), number).tolist() == [0, 1, 2, 0, 1, 2]
    assert algebra.channel_of(concatenation([heads, dim]), number).tolist() == [-1, -1, 0, 1, 2]
    assert np.array_equal(algebra.channel_of(UNIT, number), [-1])
