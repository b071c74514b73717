from fractions import Fraction

import pytest
import torch

from laconic.numeric.codebook import normal_float
from laconic.program import Codebook, Uniform


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grid(bits=4, signed=True, axis=None, channels=5):
    """A grid whose zero point is not 0 where codes are unsigned."""
    shape = () if axis is None else (channels,)
    scale = torch.linspace(0.1, 0.3, max(channels, 1))[: channels if shape else 1].reshape(shape)
    zero_point = torch.zeros(shape) if signed else torch.full(shape, float(2 ** (bits - 1)))
    return Uniform(scale, zero_point, bits, signed, axis)


LEVELS = {"binary": torch.tensor([-1.0, 1.0]), "ternary": torch.tensor([-1.0, 0.0, 1.0]), "nf4": normal_float()}


def book(format="nf4", axis=None, channels=5):
    """A table with scales."""
    scale = torch.linspace(0.4, 1.2, channels) if axis is not None else torch.tensor(0.7)
    return Codebook(scale, LEVELS[format], format, axis)


def grouped(kind, axis, shape=(5, 5, 5), groups=3):
    """A quantizer whose scales belong to groups of a channel's entries that are strewn over it."""
    generator = torch.Generator().manual_seed(axis)
    rest = shape[:axis] + shape[axis + 1 :]
    group = torch.randint(groups, rest, generator=generator)
    scale = torch.rand(shape[axis], groups, generator=generator) + 0.1
    if kind in LEVELS:
        return Codebook(scale, LEVELS[kind], kind, axis, group)
    zero_point = torch.randint(16, scale.shape, generator=generator).float() if kind == "uint4" else None
    return Uniform(scale, zero_point, 4, kind == "int4", axis, group)


KINDS = ("int4", "uint4", "binary", "ternary", "nf4")
FORMS = [
    *(grid(4), grid(4, axis=0), grid(4, False, axis=1), grid(3, axis=2)),
    *(book("binary"), book("ternary", axis=0), book("nf4", axis=2)),
    *(grouped(kind, axis) for kind in KINDS for axis in (0, 1, 2)),
]


def exactly(dense, scale, zero_point, low, high):
    """The nearest level of every entry, in exact arithmetic; ties to the even code."""
    result = []
    for value in dense.flatten().tolist():
        code = min(max(round(Fraction(value) / Fraction(scale)) + zero_point, low), high)
        result.append(float((code - zero_point) * Fraction(scale)))
    return torch.tensor(result).reshape(dense.shape)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_the_view_is_the_nearest_level_in_exact_arithmetic(bits, signed):
    form, dense = grid(bits, signed), 3 * random(7, 9, seed=bits)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    expected = exactly(dense, form.scale.item(), int(form.zero_point), low, high)
    torch.testing.assert_close(form(dense), expected, rtol=1e-6, atol=1e-7)
    assert len(form(dense).unique()) <= 2**bits


def test_a_grid_of_one_bit_has_two_levels():
    form = Uniform(torch.tensor(0.5), torch.tensor(0.0), 1)
    assert form(torch.tensor([-3.0, -0.4, 0.1, 2.0])).tolist() == [-0.5, -0.5, 0, 0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scales_along_an_axis_belong_to_their_channel(axis):
    dense = random(5, 5, 5)
    form = grid(4, True, axis)
    for channel in range(5):
        alone = Uniform(form.scale[channel], form.zero_point[channel], 4)
        assert torch.equal(form(dense).select(axis, channel), alone(dense.select(axis, channel)))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_quantizing_twice_changes_nothing(axis):
    form = grid(3, True, axis)
    once = form(2 * random(5, 5))
    assert torch.equal(form(once), once)


def lsq(ratio, lowest, highest):
    """S. Esser et al. 2020, eq. 3: the gradient of the quantized value with respect to its step size; `ratio` is v/s."""
    return torch.where(ratio <= lowest, lowest, torch.where(ratio >= highest, highest, ratio.round() - ratio))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_gradient_of_the_scale_is_that_of_learned_step_sizes(bits, signed):
    form = grid(bits, signed)
    lowest, highest = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)  # of codes minus zero point, which is in the middle when unsigned
    ratio = torch.linspace(2 * lowest - 0.3, 2 * highest + 0.2, 1001)
    weighting = random(1001)
    (form(ratio * form.scale.detach()) * weighting).sum().backward()
    scaling = (1001 * (2.0**bits - 1 if not signed else highest)) ** -0.5  # section 2.2 of the paper
    expected = (lsq(ratio, torch.tensor(lowest), torch.tensor(highest)) * weighting).sum() * scaling
    torch.testing.assert_close(form.scale.grad, expected, rtol=1e-3, atol=1e-3)


def test_the_gradient_of_each_channels_scale_comes_from_its_channel():
    form = grid(4, True, axis=0)
    ratio = torch.linspace(-7.4, 6.4, 60).reshape(5, 12)
    form(ratio * form.scale.detach()[:, None]).sum().backward()
    expected = (ratio.round() - ratio).sum(1) * (12 * 7) ** -0.5
    torch.testing.assert_close(form.scale.grad, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("signed", [True, False])
def test_the_gradient_of_the_values_passes_inside_the_range_and_stops_outside(signed):
    form = grid(4, signed)
    inside = torch.linspace(-7.9, 6.9, 50) * form.scale.detach()
    outside = torch.cat([torch.linspace(-20, -8.1, 50), torch.linspace(7.1, 20, 50)]) * form.scale.detach()
    dense = torch.cat([inside, outside]).requires_grad_()
    (form(dense) * torch.arange(1.0, 151)).sum().backward()
    torch.testing.assert_close(dense.grad[:50], torch.arange(1.0, 51))
    wrong = outside[dense.grad[50:] != 0] / form.scale.detach()
    assert not len(wrong), f"values at {wrong.tolist()} steps lie outside [-8, 7] and still get a gradient"


def test_training_cannot_make_a_scale_negative_or_zero():
    form = Uniform(torch.tensor(0.1), torch.tensor(0.0), 4)
    with torch.no_grad():
        form.scale.fill_(-0.1)
    assert torch.equal(form(torch.tensor([0.3, -0.2])), Uniform(torch.tensor(0.1), torch.tensor(0.0), 4)(torch.tensor([0.3, -0.2])))
    with torch.no_grad():
        form.scale.zero_()
    assert form(torch.tensor([0.3, 0.0])).isfinite().all()


def test_a_grid_does_not_share_the_tensors_it_is_given():
    scale = torch.tensor([0.1, 0.2])
    form = Uniform(scale, torch.zeros(2), 4, axis=0)
    scale.zero_()
    assert form.scale.tolist() == pytest.approx([0.1, 0.2])


def test_a_narrow_grid_has_as_many_levels_below_zero_as_above():
    form = Uniform(torch.tensor(0.5), bits=3, narrow=True)
    assert form(torch.linspace(-5, 5, 101)).unique().tolist() == [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    wide = Uniform(torch.tensor(0.5), bits=3)
    assert wide(torch.linspace(-5, 5, 101)).unique().tolist() == [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]


# tables of levels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("format", LEVELS)
def test_the_view_is_the_nearest_level_of_the_table_times_the_scale(format):
    form, dense = book(format), 2 * random(300)
    levels = [Fraction(level) * Fraction(form.scale.item()) for level in LEVELS[format].tolist()]
    for value, view in zip(dense.tolist(), form(dense).tolist(), strict=True):
        nearest = min(abs(Fraction(value) - level) for level in levels)
        assert float(abs(Fraction(value) - Fraction(view))) == pytest.approx(float(nearest), rel=1e-5, abs=1e-7)
    assert torch.isin(form(dense), LEVELS[format] * form.scale.detach()).all(), "to the bit"


@pytest.mark.parametrize("format", LEVELS)
@pytest.mark.parametrize("axis", [None, 1])
def test_the_gradient_passes_between_the_outermost_levels_and_stops_outside_but_for_signs(format, axis):
    form = book(format, axis)
    scale = form.scale.detach() if axis is None else form.scale.detach()[None, :, None]
    dense = (torch.linspace(-2, 2, 125).reshape(5, 5, 5) * scale).requires_grad_()
    weighting = random(5, 5, 5)
    (form(dense) * weighting).sum().backward()
    inside = torch.linspace(-2, 2, 125).reshape(5, 5, 5).abs() <= 1
    if len(LEVELS[format]) == 2:
        inside = torch.ones_like(inside)  # through a sign it passes everywhere
    torch.testing.assert_close(dense.grad, torch.where(inside, weighting, 0))


@pytest.mark.parametrize("format", LEVELS)
def test_the_gradient_of_a_tables_scale_is_that_of_learned_step_sizes(format):
    form, weighting = book(format), random(1001)
    ratio = torch.linspace(-2.2, 2.1, 1001)
    (form(ratio * form.scale.detach()) * weighting).sum().backward()
    level = LEVELS[format][(ratio[:, None] - LEVELS[format]).abs().argmin(1)]
    slope = level if len(LEVELS[format]) == 2 else torch.where(ratio.abs() > 1, level, level - ratio)  # signs do not depend on it
    expected = (slope * weighting).sum() * 1001**-0.5
    torch.testing.assert_close(form.scale.grad, expected, rtol=1e-3, atol=1e-3)


# groups --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_each_entry_has_the_scale_of_its_channel_and_group(kind, axis):
    form, dense = grouped(kind, axis), random(5, 5, 5)
    moved = form(dense).movedim(axis, 0)
    for channel, values in enumerate(dense.movedim(axis, 0)):
        for group in range(3):
            scale = form.scale[channel, group]
            here = form.group == group
            alone = Codebook(scale, LEVELS[kind]) if kind in LEVELS else Uniform(scale, form.zero_point[channel, group], 4, kind == "int4")
            assert torch.equal(moved[channel][here], alone(values[here]))


def test_the_gradient_of_each_groups_scale_comes_from_its_entries():
    form, dense = grouped("int4", 0), random(5, 5, 5)
    (form(dense) * (form.group == 1)).sum().backward()
    assert form.scale.grad[:, 1].ne(0).all()
    assert not form.scale.grad[:, [0, 2]].any()


def test_a_grouped_form_is_called_so():
    assert [grouped(kind, 0).name for kind in KINDS] == [f"grouped {kind}" for kind in KINDS]
    assert [grid(3).name, grid(8, False).name, book("nf4").name] == ["int3", "uint8", "nf4"]


# every form ----------------------------------------------------------------------------------------

every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.name} {form.axis}")


@every_form
def test_codes_stand_for_the_view_to_the_bit_and_are_whole_numbers_below_the_base(form):
    dense = 2 * random(5, 5, 5)
    codes = form.encode(dense)
    assert not codes.is_floating_point()
    assert 0 <= codes.min() <= codes.max() < form.base
    assert torch.equal(form.decode(codes), form(dense))
    assert torch.equal(form.encode(form(dense)), codes), "what is on a level stays on it"


@every_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_view_has_the_type_of_the_tensor(form, dtype):
    dense = random(5, 5, 5).to(dtype)
    assert form(dense).dtype == dtype
    assert torch.equal(form(dense), form.decode(form.encode(dense)).to(dtype))


@every_form
def test_settings_and_tensors_build_the_form_again(form):
    again = type(form)(**form.state_dict(), **form.settings())
    assert torch.equal(again(random(5, 5, 5)), form(random(5, 5, 5)))


@every_form
def test_arrays_and_settings_restore_the_form(form):
    again = type(form).restore(form.arrays(), form.settings(), (5, 5, 5))
    assert torch.equal(again(random(5, 5, 5)), form(random(5, 5, 5)))
    assert again.state_dict().keys() == form.state_dict().keys()


@every_form
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_form_of_a_cut_tensor_is_the_cut_view(form, axis):
    dense, index = random(5, 5, 5, seed=3), torch.tensor([4, 0, 2])
    expected = form(dense).index_select(axis, index)
    assert torch.equal(form.select(axis, index)(dense.index_select(axis, index)), expected)


@every_form
def test_cutting_along_every_axis_one_after_the_other_is_cutting_the_view(form):
    dense = random(5, 5, 5, seed=3)
    expected, cut = form(dense), form
    for axis, index in ((2, [0, 3]), (0, [1, 2, 4]), (1, [3]), (2, [1])):
        dense, expected = (each.index_select(axis, torch.tensor(index)) for each in (dense, expected))
        cut = cut.select(axis, torch.tensor(index))
        assert torch.equal(cut(dense), expected)
        assert torch.equal(cut.decode(cut.encode(dense)), expected)


def test_groups_that_lose_all_their_entries_lose_their_scales():
    form = Uniform(torch.rand(4, 3) + 0.1, bits=4, axis=0, group=torch.tensor([0, 0, 1, 1, 2, 2]))
    cut = form.select(1, torch.tensor([0, 1, 5]))
    assert torch.equal(cut.scale, form.scale[:, [0, 2]])
    assert cut.group.tolist() == [0, 0, 1]
    assert "group" in cut.arrays(), "two entries of one group and one of another"
    assert "group" not in form.select(1, torch.tensor([2, 3, 4, 5])).arrays(), "whole groups"
    assert "group" not in form.select(1, torch.tensor([0, 2, 4])).arrays(), "one entry of each"


def test_groups_beyond_256_are_restored():
    form = Uniform(torch.rand(2, 300) + 0.1, bits=4, axis=0, group=torch.randperm(300, generator=torch.Generator().manual_seed(0)))
    dense = random(2, 300)
    assert torch.equal(Uniform.restore(form.arrays(), form.settings(), (2, 300))(dense), form(dense))
