import struct

import numpy as np
import pytest
import torch

from laconic.program import Half, Mask, Representation, Uniform
from laconic.program.forms import kept, quantizer_of


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_mask_holds_entries_at_zero_without_changing_the_others():
    dense, keep = random(5, 6), random(5, 6, seed=1) > 0
    dense[0, 0], keep[0, 0] = torch.nan, False
    assert torch.equal(Mask(keep)(dense), torch.where(keep, dense, 0))


def test_a_mask_of_a_cut_tensor_is_the_cut_mask():
    mask, dense, index = Mask(random(5, 5) > 0), random(5, 5, seed=1), torch.tensor([4, 0, 2])
    for axis in (0, 1):
        assert torch.equal(mask.select(axis, index)(dense.index_select(axis, index)), mask(dense).index_select(axis, index))


def test_what_masks_keep_together_is_what_each_of_them_keeps():
    first, second = random(5, 6) > 0, random(5, 6, seed=1) > 0
    assert torch.equal(kept([Mask(first), Half("float16"), Mask(second)]), first & second)
    assert kept([Half("float16"), Mask(torch.ones(5, 6))]) is None


def test_the_last_quantizer_says_which_levels_a_tensor_takes():
    first, last = Uniform(torch.tensor(0.1), bits=4), Half("bfloat16")
    assert quantizer_of([first, last, Mask(torch.ones(3))]) is last
    assert quantizer_of([Mask(torch.ones(3))]) is None


def test_a_form_that_does_not_say_how_it_is_cut_refuses():
    with pytest.raises(TypeError, match="Representation does not say how it is cut"):
        Representation().select(0, torch.tensor([0]))


# 16-bit floating point ------------------------------------------------------------------------------

EDGES = [0.0, -0.0, 1.0, -1.0, 65504.0, 6.1e-5, 5.96e-8, 1e-9, 3.14159265, -2.71828182]


def test_float16_is_the_rounding_of_ieee_754():
    values = torch.cat([torch.tensor(EDGES), random(1000), 1e4 * random(200, seed=1)])
    expected = [struct.unpack("<e", struct.pack("<e", value))[0] for value in values.tolist()]
    assert Half("float16")(values).tolist() == expected


def test_bfloat16_is_the_upper_half_of_float32_rounded_to_even():
    values = torch.cat([torch.tensor(EDGES), random(1000), 1e30 * random(200, seed=1), torch.tensor([1 + 2**-8, 1 + 3 * 2**-8])])
    bits = values.numpy().view(np.uint32).astype(np.uint64)
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    expected = (upper << 16).astype(np.uint32).view(np.float32)
    assert Half("bfloat16")(values).tolist() == expected.tolist()


@pytest.mark.parametrize(("format", "largest"), [("float16", 65504.0), ("bfloat16", 2.0**127 * (2 - 2**-7))])
def test_what_is_beyond_the_range_becomes_the_largest_number_and_gets_no_gradient(format, largest):
    dense = torch.tensor([3.4e38, 70000.0, 1.5, -3.4e38]).requires_grad_()
    view = Half(format)(dense)
    assert view.isfinite().all()
    assert view[0] == -view[3] == largest
    (view * torch.arange(1.0, 5)).sum().backward()
    inside = dense.detach().abs() <= largest
    assert torch.equal(dense.grad, torch.where(inside, torch.arange(1.0, 5), 0))


@pytest.mark.parametrize("format", ["float16", "bfloat16"])
def test_the_gradient_of_halves_is_not_rounded(format):
    dense, weighting = random(100).requires_grad_(), random(100, seed=1)
    (Half(format)(dense) * weighting).sum().backward()
    assert torch.equal(dense.grad, weighting)


@pytest.mark.parametrize("format", ["float16", "bfloat16"])
def test_the_codes_of_halves_are_their_bits(format):
    form = Half(format)
    dense = torch.cat([torch.tensor(EDGES), random(100)])
    assert form.encode(torch.tensor([1.0, -2.0])).tolist() == ([0x3C00, 0xC000] if format == "float16" else [0x3F80, 0xC000])
    assert torch.equal(form.decode(form.encode(dense)), form(dense))
    every = torch.arange(1 << 16)
    finite = every[form.decode(every).isfinite()]
    assert len(finite) == (63488 if format == "float16" else 65280)
    assert torch.equal(form.encode(form.decode(finite)), finite.int())


def test_halves_are_cut_and_built_again():
    form = Half("bfloat16")
    assert form.select(1, torch.tensor([0])).settings() == form.settings() == {"format": "bfloat16"}
    assert Half(**form.settings()).name == "bfloat16"


def test_a_tensor_keeps_its_type():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert Half("float16")(random(4).to(dtype)).dtype == dtype
