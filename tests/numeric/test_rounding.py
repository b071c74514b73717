from fractions import Fraction

import numpy as np
import pytest
import torch

from laconic.numeric.rounding import (
    asymmetric_grid,
    broadcast,
    levels,
    mean_square_scale,
    pack_bits,
    per_channel,
    quantization_error,
    round_through,
    symmetric_scale,
    unpack_bits,
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


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_scale_of_least_error_is_as_good_as_a_dense_search(bits):
    rows = torch.stack([random(500), random(500, seed=1) ** 3, random(500, seed=2).sign(), torch.rand(500), torch.eye(500)[0] * 9])
    found = quantization_error(rows, mean_square_scale(rows, bits), bits)
    largest = rows.abs().amax(1)
    shares = torch.linspace(0.2, 1, 3000)
    dense = torch.stack([quantization_error(rows, largest * share / (2 ** (bits - 1) - 1), bits) for share in shares]).amin(0)
    assert (found <= 1.03 * dense + 1e-9).all()
    assert (found <= quantization_error(rows, symmetric_scale(largest, bits), bits)).all()


def test_clipping_pays_for_few_bits_and_an_outlier():
    rows = random(1, 2000)
    rows[0, 0] = 20
    assert mean_square_scale(rows, 4) < 0.5 * symmetric_scale(rows.abs().amax(1), 4)
    assert mean_square_scale(torch.zeros(2, 5), 4).gt(0).all()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 11, 16])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 100])
def test_packed_bits_are_the_digits_of_one_large_number(bits, count):
    codes = np.random.default_rng(bits).integers(0, 2**bits, count).astype(np.uint16)
    number = 0
    for code in codes:
        number = number << bits | int(code)
    size = -(-count * bits // 8)
    expected = (number << (8 * size - count * bits)).to_bytes(size, "big")
    packed = pack_bits(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.tobytes() == expected
    assert unpack_bits(packed, bits, count).tolist() == codes.tolist()


def test_exact_halves_of_a_grid_of_decimal_steps_go_to_the_nearest_in_exact_arithmetic():
    rows = torch.linspace(-4, 4, 161)[None]
    scale = torch.tensor([0.25])
    expected = sum(min(abs(Fraction(v) - Fraction(k, 4)) for k in range(-7, 8)) ** 2 for v in rows[0].tolist()) / 161
    assert quantization_error(rows, scale, 4).item() == pytest.approx(float(expected), rel=1e-5)
