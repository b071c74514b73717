from fractions import Fraction

import pytest
import torch

from laconic.numeric.rounding import (
    asymmetric_grid,
    broadcast,
    consecutive_groups,
    levels,
    mean_square_grid,
    mean_square_scale,
    per_channel,
    per_group,
    quantization_error,
    round_through,
    symmetric_scale,
    through,
)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", range(1, 17))
def test_a_width_has_two_to_its_power_levels(bits):
    for signed in (True, False):
        low, high = levels(bits, signed)
        assert high - low + 1 == 2**bits
        assert low == (-(2 ** (bits - 1)) if signed else 0)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_one_value_per_channel_multiplies_its_channel(axis):
    tensor, values = random(4, 4, 4), random(4, seed=1)
    product = tensor * broadcast(values, tensor, axis)
    for channel in range(4):
        assert torch.equal(product.select(axis, channel), tensor.select(axis, channel) * values[channel])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_value_per_group_multiplies_the_entries_of_its_group(axis):
    tensor, values = random(4, 4, 4), random(4, 3, seed=1)
    group = torch.randint(3, (4, 4), generator=torch.Generator().manual_seed(0))
    product = tensor * broadcast(values, tensor, axis, group)
    for channel in range(4):
        ours, whole = product.select(axis, channel), tensor.select(axis, channel)
        for row in range(4):
            for column in range(4):
                assert ours[row, column] == whole[row, column] * values[channel, group[row, column]]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rows_of_groups_hold_consecutive_entries_of_a_channel(axis):
    tensor = random(2, 4, 6)
    channels, size = tensor.shape[axis], 4
    group = consecutive_groups(tuple(tensor.select(axis, 0).shape), tensor.numel() // channels // size)
    rows = per_group(tensor, axis, size).reshape(channels, -1, size)
    for channel in range(channels):
        flat = tensor.select(axis, channel).flatten()
        for number, row in enumerate(rows[channel]):
            assert torch.equal(row, flat[size * number : size * (number + 1)])
            assert torch.equal(row, tensor.select(axis, channel)[group == number])


def test_a_value_goes_through_exactly_with_the_gradient_of_another():
    value, carrier = random(100), (1e3 * random(100, seed=1)).requires_grad_()
    result = through(value, 2 * carrier)
    assert torch.equal(result, value)
    result.sum().backward()
    assert torch.equal(carrier.grad, torch.full((100,), 2.0))


def test_a_scalar_is_broadcast_as_it_is():
    assert broadcast(torch.tensor(2.0), random(3, 3), 1).ndim == 0
    assert broadcast(torch.tensor(2.0), random(3, 3), None).ndim == 0


def test_rounding_goes_to_the_nearest_with_ties_to_even_and_lets_the_gradient_through():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 0.49, -2.7], requires_grad=True)
    rounded = round_through(x)
    assert rounded.tolist() == [0, 2, 2, 0, -2, 0, -3]
    (rounded * torch.arange(7.0)).sum().backward()
    assert x.grad.tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rows_hold_the_entries_of_their_channel(axis):
    tensor = random(2, 3, 4)
    rows = per_channel(tensor, axis)
    assert rows.shape == (tensor.shape[axis], 24 // tensor.shape[axis])
    for channel, row in enumerate(rows):
        assert torch.equal(row, tensor.select(axis, channel).flatten())
    assert torch.equal(per_channel(tensor, None), tensor.reshape(1, 24))


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_symmetric_scale_maps_the_largest_to_the_highest_code(bits):
    largest = torch.tensor([3.0, 0.1, 0.0])
    scale = symmetric_scale(largest, bits)
    highest = 2 ** (bits - 1) - 1
    torch.testing.assert_close(scale[:2] * highest, largest[:2])
    assert scale[2] > 0
    assert scale[2].isfinite()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 2.0), (-3.7, 0.01), (0.0, 5.0), (0.5, 5.0), (-5.0, 0.0), (-5.0, -0.5), (0.0, 0.0), (-1e-6, 1e3)]
)
def test_an_asymmetric_grid_holds_zero_exactly_and_covers_the_range(bits, low, high):
    scale, zero_point = asymmetric_grid(torch.tensor(low), torch.tensor(high), bits)
    top = 2**bits - 1
    assert zero_point == zero_point.round()
    assert 0 <= zero_point <= top
    assert scale > 0
    representable = (torch.arange(top + 1) - zero_point) * scale
    assert (representable == 0.0).any()
    assert representable.min() <= min(low, 0) + 0.5001 * scale
    assert representable.max() >= max(high, 0) - 0.5001 * scale
    if low < high:
        torch.testing.assert_close(scale * top, torch.tensor(max(high, 0) - min(low, 0)))


def test_asymmetric_grids_are_made_one_per_channel():
    lows, highs = -random(6).abs(), random(6, seed=1).abs()
    scales, zero_points = asymmetric_grid(lows, highs, 8)
    for channel in range(6):
        assert (scales[channel], zero_points[channel]) == asymmetric_grid(lows[channel], highs[channel], 8)


def test_the_error_is_that_of_rounding_to_the_nearest_of_symmetric_levels():
    rows, scale = 3 * random(4, 20), torch.tensor([0.5, 0.2, 1.0, 3.0])
    for bits in (2, 3, 8):
        top = 2 ** (bits - 1) - 1
        table = torch.arange(-top, top + 1.0)
        nearest = (rows[:, :, None] - table * scale[:, None, None]).abs().amin(2)
        torch.testing.assert_close(quantization_error(rows, scale, bits), nearest.square().mean(1))


def test_the_error_of_unsigned_codes_is_that_of_the_nearest_of_their_levels():
    rows, scale, zero_point = 3 * random(4, 20), torch.tensor([0.5, 0.2, 1.0, 3.0]), torch.tensor([0.0, 3.0, 1.0, 2.0])
    for bits in (2, 3, 8):
        levels = (torch.arange(2.0**bits) - zero_point[:, None]) * scale[:, None]
        nearest = (rows[:, :, None] - levels[:, None, :]).abs().amin(2)
        torch.testing.assert_close(quantization_error(rows, scale, bits, zero_point), nearest.square().mean(1))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_scale_of_least_error_is_as_good_as_a_dense_search(bits):
    rows = torch.stack([random(500), random(500, seed=1) ** 3, random(500, seed=2).sign(), torch.rand(500), torch.eye(500)[0] * 9])
    found = quantization_error(rows, mean_square_scale(rows, bits), bits)
    largest = rows.abs().amax(1)
    shares = torch.linspace(0.01, 1, 3000)
    dense = torch.stack([quantization_error(rows, largest * share / (2 ** (bits - 1) - 1), bits) for share in shares]).amin(0)
    assert (found <= 1.03 * dense + 1e-9).all()
    assert (found <= quantization_error(rows, symmetric_scale(largest, bits), bits)).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_asymmetric_grid_of_least_error_is_nearly_as_good_as_a_search_of_all_ranges(bits):
    rows = torch.stack([random(300), random(300, seed=1) ** 3, torch.rand(300), random(300).abs() - 0.5, torch.eye(300)[0] * 9])
    found = quantization_error(rows, *swapped(mean_square_grid(rows, bits), bits))
    low, high, shares = rows.amin(1), rows.amax(1), torch.linspace(0.02, 1, 50)
    errors = [quantization_error(rows, *swapped(asymmetric_grid(low * a, high * b, bits), bits)) for a in shares for b in shares]
    assert (found <= 1.1 * torch.stack(errors).amin(0) + 1e-9).all()
    assert (found <= quantization_error(rows, *swapped(asymmetric_grid(low, high, bits), bits))).all()


def swapped(grid, bits):
    """Scale, bits and zero point: the arguments of the error."""
    return grid[0], bits, grid[1]


def test_an_asymmetric_grid_of_a_row_of_zeros_is_a_grid():
    scale, zero_point = mean_square_grid(torch.zeros(2, 5), 4)
    assert scale.gt(0).all()
    assert zero_point.tolist() == [0, 0]


def test_clipping_pays_for_few_bits_and_an_outlier():
    rows = random(1, 2000)
    rows[0, 0] = 20
    assert mean_square_scale(rows, 4) < 0.5 * symmetric_scale(rows.abs().amax(1), 4)
    assert mean_square_scale(torch.zeros(2, 5), 4).gt(0).all()


def test_exact_halves_of_a_grid_of_decimal_steps_go_to_the_nearest_in_exact_arithmetic():
    rows = torch.linspace(-4, 4, 161)[None]
    scale = torch.tensor([0.25])
    expected = sum(min(abs(Fraction(v) - Fraction(k, 4)) for k in range(-7, 8)) ** 2 for v in rows[0].tolist()) / 161
    assert quantization_error(rows, scale, 4).item() == pytest.approx(float(expected), rel=1e-5)
