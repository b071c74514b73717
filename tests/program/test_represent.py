import pytest
import torch
from torch import nn

from laconic.program import Mask, Uniform, bake, capture, clone, read, represent, represent_edge, tidy
from laconic.program.represent import edges, representations, represented, share_edge, tensor_names
from networks import build, linear

WEIGHT = "1.weight"


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grid(bits=4, signed=True, axis=None):
    """A grid whose zero point is not 0 where codes are unsigned."""
    scale = torch.linspace(0.1, 0.3, 5) if axis is not None else torch.tensor(0.1)
    return Uniform(scale, torch.full_like(scale, 0 if signed else 2 ** (bits - 1)), bits, signed, axis)


def test_what_a_mask_holds_at_zero_gets_no_gradient_and_stays_zero_in_training():
    program = linear(random(5, 6))
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


def test_forms_registered_earlier_act_first():
    program = linear(random(5, 6))
    keep, form = random(5, 6, seed=1) > 0, Uniform(torch.tensor(0.3), torch.tensor(1.0), 3)
    dense = read(program, WEIGHT).detach().clone()
    represent(program, WEIGHT, Mask(keep))
    represent(program, WEIGHT, form)
    assert torch.equal(read(program, WEIGHT), form(torch.where(keep, dense, 0)))
    assert [type(each) for each in representations(program, WEIGHT)] == [Mask, Uniform]
    assert [(name, len(forms)) for name, forms in represented(program)] == [(WEIGHT, 2)]
    assert tensor_names(program) == [WEIGHT]
    assert representations(linear(), WEIGHT) == []


@pytest.mark.parametrize("training", [True, False])
def test_representing_and_baking_keep_mode_and_outputs(training):
    program = linear(random(5, 6)).train(training)
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
    program = linear(random(5, 6))
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
    program = linear(random(5, 6))
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
    program = linear(random(5, 6))
    represent_edge(program, tanh_of(program), grid(4, False))
    tidy(program)
    program.train()(random(3, 6)).sum().backward()
    assert next(iter(edges(program).values())).scale.grad != 0
