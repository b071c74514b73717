import numpy as np
import pytest
import torch
from torch import nn

from laconic.numeric.codebook import normal_float
from laconic.program import Codebook, Half, Mask, Uniform, capture, packed, packed_bytes, read, represent
from laconic.program.pack import unpacked
from networks import build, linear

WEIGHT = "1.weight"


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grid(bits=4, signed=True, axis=None, channels=5):
    """A grid whose zero point is not 0 where codes are unsigned."""
    scale = torch.linspace(0.1, 0.3, channels) if axis is not None else torch.tensor(0.1)
    return Uniform(scale, torch.full_like(scale, 0 if signed else 2 ** (bits - 1)), bits, signed, axis)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_packed_codes_cost_their_true_width_and_give_the_view_back(bits, axis):
    program = linear(random(5, 6))
    channels = {None: 1, 0: 5, 1: 6}[axis]
    represent(program, WEIGHT, grid(bits, True, axis, channels))
    form = packed(program, WEIGHT)
    assert form.bytes == -(-30 * bits // 8) + 4 * channels  # codes, whole bytes; one float32 scale per channel; no zero points
    assert torch.equal(unpacked(form), read(program, WEIGHT))


@pytest.mark.parametrize("bits", range(1, 9))
def test_zero_points_that_are_not_zero_are_stored(bits):
    program = linear(random(5, 6))
    represent(program, WEIGHT, grid(bits, False, 0))
    form = packed(program, WEIGHT)
    assert form.bytes == -(-30 * bits // 8) + 4 * 5 + 5  # codes; scales; zero points
    assert torch.equal(unpacked(form), read(program, WEIGHT))


@pytest.mark.parametrize("order", ["mask first", "mask last"])
@pytest.mark.parametrize(("bits", "signed"), [(2, True), (3, True), (8, True), (3, False), (8, False)])
def test_what_a_mask_holds_at_zero_costs_one_bit(order, bits, signed):
    program = linear(random(5, 6))
    keep = torch.zeros(30, dtype=torch.bool)
    keep[torch.randperm(30, generator=torch.Generator().manual_seed(0))[:11]] = True
    forms = [Mask(keep.reshape(5, 6)), grid(bits, signed)]
    for form in forms if order == "mask first" else forms[::-1]:
        represent(program, WEIGHT, form)
    form = packed(program, WEIGHT)
    assert form.bytes == 4 + -(-11 * bits // 8) + 4 + (0 if signed else 1)  # 30 bits of the mask; 11 codes; scale; zero point
    assert torch.equal(unpacked(form), read(program, WEIGHT))


def test_masks_of_two_steps_are_packed_as_one():
    program = linear(random(5, 6))
    first, second = random(5, 6, seed=1) > 0, random(5, 6, seed=2) > 0
    represent(program, WEIGHT, Mask(first))
    represent(program, WEIGHT, Mask(second))
    form = packed(program, WEIGHT)
    assert form.bytes == 4 + 4 * int((first & second).sum())
    assert torch.equal(unpacked(form), read(program, WEIGHT))


def test_a_plain_tensor_is_packed_as_it_is():
    program = linear(random(5, 6))
    form = packed(program, WEIGHT)
    assert form.bytes == 4 * 30
    assert torch.equal(unpacked(form), read(program, WEIGHT))
    assert unpacked(form).dtype == torch.float32


GROUP = torch.arange(6) // 2
BOOKS = {
    "binary": (torch.tensor([-1.0, 1.0]), 4),  # levels, and the bytes of 30 codes
    "ternary": (torch.tensor([-1.0, 0.0, 1.0]), 6),
    "nf4": (normal_float(), 15),
}


@pytest.mark.parametrize("format", BOOKS)
@pytest.mark.parametrize(("shape", "axis"), [((), None), ((5,), 0), ((6,), 1), ((5, 3), 0)])
def test_packed_tables_cost_their_codes_scales_and_levels(format, shape, axis):
    program = linear(random(5, 6))
    (levels, codes), scales = BOOKS[format], torch.rand(shape) + 0.1
    represent(program, WEIGHT, Codebook(scales, levels, format, axis, GROUP if len(shape) == 2 else None))
    form = packed(program, WEIGHT)
    assert form.bytes == codes + 4 * scales.numel() + 4 * len(levels)
    assert torch.equal(unpacked(form), read(program, WEIGHT))


@pytest.mark.parametrize(("bits", "signed"), [(8, True), (4, True), (4, False), (3, False), (2, True)])
def test_even_groups_cost_no_more_than_their_scales_and_zero_points(bits, signed):
    program = linear(random(5, 6))
    zero_point = None if signed else torch.randint(2**bits, (5, 3)).float()
    represent(program, WEIGHT, Uniform(torch.rand(5, 3) + 0.1, zero_point, bits, signed, 0, GROUP))
    form = packed(program, WEIGHT)
    assert form.bytes == -(-30 * bits // 8) + 4 * 15 + (0 if signed else 15)
    assert torch.equal(unpacked(form), read(program, WEIGHT))


def test_uneven_groups_cost_a_byte_per_entry_of_a_channel_more():
    program = linear(random(5, 6))
    represent(program, WEIGHT, Uniform(torch.rand(5, 3) + 0.1, bits=4, axis=0, group=torch.tensor([0, 1, 1, 2, 2, 0])))
    form = packed(program, WEIGHT)
    assert form.bytes == 15 + 4 * 15 + 6
    assert torch.equal(unpacked(form), read(program, WEIGHT))


@pytest.mark.parametrize("format", ["float16", "bfloat16"])
def test_halves_cost_two_bytes_each(format):
    program = linear(random(5, 6))
    represent(program, WEIGHT, Half(format))
    form = packed(program, WEIGHT)
    assert form.bytes == 60
    assert torch.equal(unpacked(form), read(program, WEIGHT))


@pytest.mark.parametrize("last", [Half("float16"), Codebook(torch.tensor(0.5), torch.tensor([-1.0, 1.0])), grid(3, axis=0)], ids=str)
def test_masks_compose_with_every_form(last):
    program, keep = linear(random(5, 6)), random(5, 6, seed=1) > 0
    forms = [last, Mask(keep)]
    for form in forms:
        represent(program, WEIGHT, form)
    form = packed(program, WEIGHT)
    assert torch.equal(unpacked(form), read(program, WEIGHT))
    assert torch.equal(read(program, WEIGHT) == 0, ~keep | (last(read(linear(random(5, 6)), WEIGHT)) == 0))
    again = form.forms()
    assert [type(each) for each in again] == [type(last), Mask]
    assert torch.equal(again[1](again[0](unpacked(form))), read(program, WEIGHT))


@pytest.mark.parametrize("form", [grid(4), Codebook(torch.tensor(0.5), normal_float()), Half("float16")], ids=str)
def test_a_tensor_of_another_type_comes_back_in_it(form):
    program = capture(nn.Sequential(nn.Linear(6, 5)).bfloat16(), (random(2, 6).bfloat16(),))
    represent(program, "0.weight", form)
    again = unpacked(packed(program, "0.weight"))
    assert again.dtype == torch.bfloat16
    assert torch.equal(again, read(program, "0.weight"))


def test_half_precision_tensors_are_packed_at_two_bytes():
    module = nn.Linear(6, 5, bias=False).bfloat16()
    program = capture(module, (random(2, 6).bfloat16(),))
    assert packed_bytes(program) == 60
    assert torch.equal(unpacked(packed(program, "weight")), read(program, "weight"))


def test_what_is_packed_does_not_change_with_the_program():
    program = linear(random(5, 6))
    form = packed(program, WEIGHT)
    before = form.arrays["values"].copy()
    with torch.no_grad():
        read(program, WEIGHT).zero_()
    assert np.array_equal(form.arrays["values"], before)


def test_the_bytes_of_a_program_count_ties_once_and_only_what_is_read():
    module, example = build("tied")
    assert packed_bytes(capture(module, example)) == 4 * (11 * 8 + 8 * 8 + 8)
    module, example = build("convolution")  # the norms' batch counters are not read
    program = capture(module, example)
    plain = 4 * (6 * 27 + 4 * 6 + 8 * 54 + 4 * 8 + 5 * 8 + 5)
    assert packed_bytes(program) == plain
    represent(program, "classifier.weight", Uniform(torch.tensor(0.1), torch.tensor(0.0), 2))
    assert packed_bytes(program) == plain - 4 * 40 + 10 + 4
