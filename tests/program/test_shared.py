import pytest
import torch

from laconic.program import Mask, Shared, bake, load, packed, read, represent, save
from laconic.program.cut import cut
from laconic.program.forms import quantizer_of
from laconic.program.groups import channel_groups
from laconic.program.pack import unpacked
from laconic.program.represent import representations
from networks import captured


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shared(dense, centroids=5, axis=0, group=None, holds_zero=False, seed=1):
    """A form with random centroids, in no order, that `dense` has been given to."""
    groups = 1 if group is None else int(group.max()) + 1
    form = Shared(random(groups, centroids, seed=seed), torch.zeros_like(dense), axis, group, holds_zero)
    form.right_inverse(dense)
    return form


FORMS = [
    {},
    {"holds_zero": True},
    {"axis": 1, "group": torch.tensor([0, 0, 1, 1, 2, 2])},
    {"axis": 2, "group": torch.tensor([1, 0, 2, 2, 0]), "holds_zero": True},
]


def some_zeros(*shape):
    dense = random(*shape)
    dense.flatten()[::7] = 0.0
    return dense


@pytest.mark.parametrize("settings", FORMS)
def test_every_entry_gets_the_nearest_centroid_of_its_group(settings):
    dense = some_zeros(4, 6, 5)
    form = shared(dense, **settings)
    view, axis, group = form(dense), settings.get("axis", 0), settings.get("group")
    for position in torch.cartesian_prod(*map(torch.arange, dense.shape)):
        entry, row = dense[tuple(position)], 0 if group is None else int(group[position[axis]])
        nearest = form.codebook[row][(form.codebook[row] - entry).abs().argmin()]
        assert view[tuple(position)] == (0.0 if entry == 0 and form.holds_zero else nearest)


@pytest.mark.parametrize("settings", FORMS)
def test_the_view_is_the_decoded_codes_and_they_are_below_the_base(settings):
    dense = some_zeros(4, 6, 5)
    form = shared(dense, **settings)
    codes = form.encode(dense)
    assert torch.equal(form.decode(codes), form(dense))
    assert codes.min() >= 0
    assert codes.max() < form.base == 5 + form.holds_zero


@pytest.mark.parametrize("settings", FORMS)
def test_the_gradient_of_a_centroid_is_the_sum_over_its_entries(settings):
    dense, weighting = some_zeros(4, 6, 5).requires_grad_(), random(4, 6, 5, seed=2)
    form = shared(dense, **settings)
    (form(dense) * weighting).sum().backward()
    for row in range(len(form.codebook)):
        of_row = torch.ones(4, 6, 5, dtype=torch.bool)
        if form.group is not None:
            of_row = (form.group == row).reshape([-1 if axis == form.axis else 1 for axis in range(3)]).expand(4, 6, 5)
        for position in range(5):
            entries = of_row & (form.codes == position + form.holds_zero)
            torch.testing.assert_close(form.codebook.grad[row, position], weighting[entries].sum(), rtol=1e-5, atol=1e-5)
    assert dense.grad is None


def test_codes_stay_when_centroids_move_and_zero_is_no_centroid():
    dense = some_zeros(6, 8)
    form = shared(dense, holds_zero=True)
    before = form.codes.clone()
    with torch.no_grad():
        form.codebook.copy_(form.codebook.flip(1) * 3)
    assert torch.equal(form.codes, before)
    assert torch.equal(form(dense) == 0, dense == 0)


def test_a_tensor_that_is_given_another_value_gets_new_codes():
    program, _ = captured("convolution")
    represent(program, "classifier.weight", shared(read(program, "classifier.weight").detach()))
    [form] = representations(program, "classifier.weight")
    other = form.codebook.detach().flatten()[torch.arange(read(program, "classifier.weight").numel()) % 5]
    with torch.no_grad():
        program.get_submodule("classifier").weight = other.reshape(read(program, "classifier.weight").shape)
    assert torch.equal(read(program, "classifier.weight").flatten(), other)


@pytest.mark.parametrize("settings", FORMS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_form_of_a_cut_tensor_is_the_cut_view(settings, axis):
    dense, index = some_zeros(4, 6, 5), torch.tensor([0, 3])
    form = shared(dense, **settings)
    part = form.select(axis, index)
    assert torch.equal(part(dense.index_select(axis, index)), form(dense).index_select(axis, index))
    if form.group is not None and axis == form.axis:
        assert len(part.codebook) == len(form.group[index].unique())


@pytest.mark.parametrize("settings", FORMS)
def test_packed_it_costs_its_codes_and_centroids_and_comes_back_to_the_bit(settings):
    program, _ = captured("convolution")
    name = "classifier.weight"
    dense = some_zeros(*read(program, name).shape)
    with torch.no_grad():
        read(program, name).copy_(dense)
    group = None if "group" not in settings else torch.arange(len(dense)) // 2
    form = shared(dense, 8, group=group, holds_zero=settings.get("holds_zero", False))
    represent(program, name, form)
    form = packed(program, name)
    groups = 1 if group is None else int(group.max()) + 1
    assert form.arrays["values"].nbytes == -(-dense.numel() * (4 if settings.get("holds_zero") else 3) // 8)
    assert form.bytes == form.arrays["values"].nbytes + 4 * 8 * groups + (len(dense) if groups > 1 and len(dense) % groups else 0)
    assert torch.equal(unpacked(form), read(program, name))


@pytest.mark.parametrize("pack", [False, True])
def test_a_saved_program_keeps_its_codes_when_centroids_were_trained(pack, tmp_path):
    program, example = captured("convolution")
    name = "classifier.weight"
    dense = read(program, name).detach().clone()
    represent(program, name, Mask(dense > -0.1))
    represent(program, name, shared(dense))
    represent(program, name, Mask(dense > -0.1))
    form = quantizer_of(representations(program, name))
    with torch.no_grad():
        form.codebook.add_(random(1, 5, seed=5))
    save(program, tmp_path / "program.safetensors", pack=pack)
    again = load(tmp_path / "program.safetensors")
    assert torch.equal(read(again, name), read(program, name))
    assert torch.equal(again(*example), program(*example))
    assert packed(again, name).bytes == packed(program, name).bytes
    if not pack:
        assert torch.equal(quantizer_of(representations(again, name)).codes, form.codes)


def test_channels_are_cut_with_their_codes_and_baking_keeps_the_values():
    program, example = captured("convolution")
    names = ("features.0.0.weight", "features.2.0.weight", "classifier.weight")
    for name in names:
        represent(program, name, shared(read(program, name).detach()))
    before = {name: read(program, name).detach() for name in names}
    group = channel_groups(program)[0]
    cut(program, {group.name: list(range(1, group.channels))})
    assert program(*example).isfinite().all()
    for name in names:
        assert torch.isin(read(program, name), before[name]).all()
        view = read(program, name).detach().clone()
        bake(program, name)
        assert torch.equal(read(program, name), view)


@pytest.mark.parametrize("settings", FORMS)
def test_codes_are_ranked_by_what_they_stand_for_and_found_again(settings):
    form = shared(some_zeros(4, 6, 5), **settings)
    ranks, values = form.ranks(form.codes), form.decode(form.codes).detach()
    assert torch.equal(form.codes_of(ranks), form.codes)
    assert torch.equal(ranks.sign(), values.sign().long())
    axis, group = settings.get("axis", 0), settings.get("group")
    for number in range(len(form.codebook)):
        chosen = torch.ones_like(values, dtype=torch.bool) if group is None else (form._spread(group, 3) == number).expand_as(values)
        pairs = sorted({(float(value), int(rank)) for value, rank in zip(values[chosen], ranks[chosen], strict=True)})
        assert [rank for _, rank in pairs] == sorted({rank for _, rank in pairs}), axis
    smallest = [int(each) for each in form.ranks(torch.arange(form.base)) if each > 0] if group is None else [1]
    assert sorted(smallest) == list(range(1, len(smallest) + 1))


def test_a_place_beyond_the_codebook_is_refused():
    form = Shared(torch.tensor([[-1.0, 2.0]]), torch.zeros(3, dtype=torch.int32))
    for wrong in (2, -2, 0):
        with pytest.raises(IndexError):
            form.codes_of(torch.tensor([wrong, 1, -1]))
