from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from laconic.program import Mask, Representation, Uniform, bake, capture, clone, packed, packed_bytes, read, represent, represent_edge, tidy
from laconic.program.represent import edges, representations, represented, share_edge, tensor_names, unpacked
from networks import build

WEIGHT = "1.weight"


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(values=None):
    """A linear layer between two activations; its weight is `values`."""
    program = clone(_network())
    if values is not None:
        program.get_parameter(WEIGHT).data = values
    return program


@cache
def _network():
    return capture(nn.Sequential(nn.Tanh(), nn.Linear(6, 5, bias=False), nn.ReLU()), (random(2, 6),))


def grid(bits=4, signed=True, axis=None, channels=5):
    """A grid whose zero point is not 0 where codes are unsigned."""
    shape = () if axis is None else (channels,)
    scale = torch.linspace(0.1, 0.3, max(channels, 1))[: channels if shape else 1].reshape(shape)
    zero_point = torch.zeros(shape) if signed else torch.full(shape, float(2 ** (bits - 1)))
    return Uniform(scale, zero_point, bits, signed, axis)


def exactly(dense, scale, zero_point, low, high):
    """The nearest level of every entry, in exact arithmetic; ties to the even code."""
    result = []
    for value in dense.flatten().tolist():
        code = min(max(round(Fraction(value) / Fraction(scale)) + zero_point, low), high)
        result.append(float((code - zero_point) * Fraction(scale)))
    return torch.tensor(result).reshape(dense.shape)


# masks ---------------------------------------------------------------------------------------------


def test_a_mask_holds_entries_at_zero_without_changing_the_others():
    dense, keep = random(5, 6), random(5, 6, seed=1) > 0
    dense[0, 0], keep[0, 0] = torch.nan, False
    assert torch.equal(Mask(keep)(dense), torch.where(keep, dense, 0))


def test_what_a_mask_holds_at_zero_gets_no_gradient_and_stays_zero_in_training():
    program = network(random(5, 6))
    keep = random(5, 6, seed=1) > 0
    represent(program, WEIGHT, Mask(keep))
    optimizer = torch.optim.AdamW(program.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        program.train()(random(4, 6)).square().sum().backward()
        original = dict(program.named_parameters())["1.parametrizations.weight.original"]
        assert torch.equal(original.grad != 0, keep & (original.grad != 0))
        assert original.grad.any()
        optimizer.step()
    assert torch.equal(read(program, WEIGHT) != 0, keep)


# uniform grids -------------------------------------------------------------------------------------


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


# cutting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("form", [Mask(random(5, 5, 5) > 0), grid(4), grid(4, axis=0), grid(4, False, axis=1), grid(3, axis=2)], ids=str)
def test_the_form_of_a_cut_tensor_is_the_cut_view(form, axis):
    dense, index = random(5, 5, 5, seed=3), torch.tensor([4, 0, 2])
    expected = form(dense).index_select(axis, index)
    assert torch.equal(form.select(axis, index)(dense.index_select(axis, index)), expected)


def test_a_form_that_does_not_say_how_it_is_cut_refuses():
    with pytest.raises(TypeError, match="Representation does not say how it is cut"):
        Representation().select(0, torch.tensor([0]))


def test_settings_build_the_form_again():
    form = grid(3, False, axis=1)
    again = Uniform(form.scale, form.zero_point, **form.settings())
    assert torch.equal(again(random(5, 5)), form(random(5, 5)))
    assert Mask(random(3) > 0).settings() == {}


# in a program --------------------------------------------------------------------------------------


def test_forms_registered_earlier_act_first():
    program = network(random(5, 6))
    keep, form = random(5, 6, seed=1) > 0, Uniform(torch.tensor(0.3), torch.tensor(1.0), 3)
    dense = read(program, WEIGHT).detach().clone()
    represent(program, WEIGHT, Mask(keep))
    represent(program, WEIGHT, form)
    assert torch.equal(read(program, WEIGHT), form(torch.where(keep, dense, 0)))
    assert [type(each) for each in representations(program, WEIGHT)] == [Mask, Uniform]
    assert [(name, len(forms)) for name, forms in represented(program)] == [(WEIGHT, 2)]
    assert tensor_names(program) == [WEIGHT]
    assert representations(network(), WEIGHT) == []


@pytest.mark.parametrize("training", [True, False])
def test_representing_and_baking_keep_mode_and_outputs(training):
    program = network(random(5, 6)).train(training)
    represent(program, WEIGHT, grid(4, axis=0))
    represented_outputs = program(random(3, 6))
    assert {module.training for module in program.modules()} - {training} in (set(), {True})  # the form itself has no mode
    assert program.get_submodule("1").training == training
    value = read(program, WEIGHT).detach().clone()
    bake(program, WEIGHT)
    assert torch.equal(program(random(3, 6)), represented_outputs)
    assert torch.equal(program.get_parameter(WEIGHT), value)
    assert program.get_parameter(WEIGHT).requires_grad
    assert set(program.state_dict()) == {WEIGHT}


def test_a_tied_weight_is_represented_for_both_readers_and_baked_tied():
    module, example = build("tied")
    program = capture(module, example)
    (name,) = set(program.aliases.values())
    (alias,) = program.aliases
    weight = read(program, name).detach().clone()
    represent(program, name, Mask(weight > 0))
    expected = type(module)()
    expected.load_state_dict(module.state_dict())
    with torch.no_grad():
        expected.embedding.weight.clamp_(min=0)
    torch.testing.assert_close(program(*example), expected.eval()(*example))
    bake(program, name)
    assert torch.equal(read(program, alias), weight.clamp(min=0))
    assert read(program, alias) is read(program, name)


def relu_of(program):
    return next(node for node in program.graph.nodes if node.target is torch.ops.aten.relu.default)


def tanh_of(program):
    return next(node for node in program.graph.nodes if node.target is torch.ops.aten.tanh.default)


def test_an_edge_stands_between_a_node_and_all_its_readers():
    module, example = build("residual")
    program = capture(module, example)
    stem, form = relu_of(program), grid(8, False)
    readers = set(stem.users)
    assert len(readers) == 2
    edge = represent_edge(program, stem, form)
    tidy(program)
    assert set(edge.users) == readers
    assert list(stem.users) == [edge]
    assert edge.meta["val"].shape[1:] == (8, 8, 8)
    assert edges(program) == {edge: form}
    stem_module = module.eval().stem
    module.stem = nn.Sequential(stem_module, grid(8, False))
    torch.testing.assert_close(program(*example), module(*example))


def test_a_shared_edge_uses_one_grid_for_both():
    program = network(random(5, 6))
    form = grid(8, False)
    first = represent_edge(program, tanh_of(program), form)
    second = share_edge(program, relu_of(program), first)
    tidy(program)
    assert edges(program) == {first: form, second: form}
    x = random(3, 6)
    assert torch.equal(program(x), form(torch.relu(nn.functional.linear(form(torch.tanh(x)), read(program, WEIGHT)))))
    copied = edges(clone(program))
    assert len(set(map(id, copied.values()))) == 1
    assert next(iter(copied.values())) is not form


def test_two_forms_on_one_edge_both_act():
    program = network(random(5, 6))
    coarse, fine = (
        Uniform(torch.tensor(0.5), torch.tensor(0.0), 8, signed=False),
        Uniform(torch.tensor(0.2), torch.tensor(0.0), 8, signed=False),
    )
    represent_edge(program, tanh_of(program), coarse)
    represent_edge(program, next(iter(edges(program))), fine)
    represent_edge(program, relu_of(program), fine)
    represent_edge(program, relu_of(program), coarse)
    tidy(program)
    assert sorted(form.scale.item() for form in edges(program).values()) == pytest.approx([0.2, 0.2, 0.5, 0.5])


def test_edges_learn():
    program = network(random(5, 6))
    represent_edge(program, tanh_of(program), grid(4, False))
    tidy(program)
    program.train()(random(3, 6)).sum().backward()
    assert next(iter(edges(program).values())).scale.grad != 0


# packed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_packed_codes_cost_their_true_width_and_give_the_view_back(bits, axis):
    program = network(random(5, 6))
    channels = {None: 1, 0: 5, 1: 6}[axis]
    represent(program, WEIGHT, grid(bits, True, axis, channels))
    form = packed(program, WEIGHT)
    assert form.bytes == -(-30 * bits // 8) + 4 * channels  # codes, whole bytes; one float32 scale per channel; no zero points
    assert torch.equal(unpacked(form), read(program, WEIGHT))


@pytest.mark.parametrize("bits", range(1, 9))
def test_zero_points_that_are_not_zero_are_stored(bits):
    program = network(random(5, 6))
    represent(program, WEIGHT, grid(bits, False, 0))
    form = packed(program, WEIGHT)
    assert form.bytes == -(-30 * bits // 8) + 4 * 5 + 2 * 5
    assert torch.equal(unpacked(form), read(program, WEIGHT))


@pytest.mark.parametrize("order", ["mask first", "mask last"])
@pytest.mark.parametrize(("bits", "signed"), [(2, True), (3, True), (8, True), (3, False), (8, False)])
def test_what_a_mask_holds_at_zero_costs_one_bit(order, bits, signed):
    program = network(random(5, 6))
    keep = torch.zeros(30, dtype=torch.bool)
    keep[torch.randperm(30, generator=torch.Generator().manual_seed(0))[:11]] = True
    forms = [Mask(keep.reshape(5, 6)), grid(bits, signed)]
    for form in forms if order == "mask first" else forms[::-1]:
        represent(program, WEIGHT, form)
    form = packed(program, WEIGHT)
    assert form.bytes == 4 + -(-11 * bits // 8) + 4 + (0 if signed else 2)  # 30 bits of the mask; 11 codes; scale; zero point
    assert torch.equal(unpacked(form), read(program, WEIGHT))


def test_masks_of_two_steps_are_packed_as_one():
    program = network(random(5, 6))
    first, second = random(5, 6, seed=1) > 0, random(5, 6, seed=2) > 0
    represent(program, WEIGHT, Mask(first))
    represent(program, WEIGHT, Mask(second))
    form = packed(program, WEIGHT)
    assert form.bytes == 4 + 4 * int((first & second).sum())
    assert torch.equal(unpacked(form), read(program, WEIGHT))


def test_a_plain_tensor_is_packed_as_it_is():
    program = network(random(5, 6))
    form = packed(program, WEIGHT)
    assert form.bytes == 4 * 30
    assert torch.equal(unpacked(form), read(program, WEIGHT))
    assert unpacked(form).dtype == torch.float32


def test_half_precision_tensors_are_packed_at_two_bytes():
    module = nn.Linear(6, 5, bias=False).bfloat16()
    program = capture(module, (random(2, 6).bfloat16(),))
    assert packed_bytes(program) == 60


def test_what_is_packed_does_not_change_with_the_program():
    program = network(random(5, 6))
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
