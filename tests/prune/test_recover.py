"""Recovery: what is left computes what the whole network did, as well as it can."""

import pytest
import torch
from torch import nn

from laconic.contract import fingerprint
from laconic.program import Mask, capture, clone, read, represent, weights
from laconic.program.cut import cut, slices
from laconic.program.groups import channel_groups
from laconic.program.layers import layers
from laconic.program.observe import observe
from laconic.recover import recover
from networks import captured

CONVOLUTIONAL = ["convolution", "residual", "concat", "grouped", "depthwise", "one-dimensional", "norms"]


def recovered(program, keep, context, how="least-squares"):
    """Return a cut and recovered copy of a program, and the names of what was fitted."""
    small = clone(program)
    sliced = slices(small, keep)
    cut(small, keep)
    return small, recover(small, program, sliced, context, how)


def outputs(program, context):
    with torch.no_grad():
        return program(torch.cat(list(context.calibration())))


def halves(program):
    return {group.name: list(range(0, group.channels, 2)) for group in channel_groups(program)}


def values_at(program, context, node):
    seen = []
    observe(program, ((x,) for x in context.calibration()), [node], lambda _, value: seen.append(value.clone()))
    return torch.cat(seen)


# Redundant channels


@pytest.mark.parametrize("bias", [True, False])
def test_a_channel_that_others_add_up_to_is_made_up_for(bias, random_context):
    module = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=bias), nn.Conv2d(6, 7, 3, stride=2, bias=bias), nn.Flatten(), nn.Linear(28, 5, bias=bias)
    )
    with torch.no_grad():
        for tensor in module[0].parameters():
            tensor[3] = tensor[0] - 2 * tensor[5]
        for tensor in module[1].parameters():
            tensor[6] = 0.5 * tensor[1] + tensor[2]
    example = (torch.randn(2, 2, 8, 8),)
    program, context = capture(module, example), random_context(example, 200)
    one, other = (group.name for group in channel_groups(program))
    keep = {one: [0, 1, 2, 4, 5], other: [0, 1, 2, 3, 4, 5]}
    small, fitted = recovered(program, keep, context)
    assert fitted == ["1.weight", "3.weight"]
    fresh = torch.randn(50, 2, 8, 8)
    torch.testing.assert_close(small(fresh), program(fresh), rtol=0, atol=1e-3)
    assert (recovered(program, keep, context, "none")[0](fresh) - program(fresh)).abs().max() > 0.1


def test_neurons_that_are_copies_are_made_up_for_through_any_function(random_context):
    module = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5))
    with torch.no_grad():
        module[0].weight[4:], module[0].bias[4:] = module[0].weight[:4], module[0].bias[:4]
    program = capture(module, (torch.randn(2, 6),))
    [group] = channel_groups(program)
    small, _ = recovered(program, {group.name: [0, 1, 2, 3]}, random_context((torch.randn(2, 6),), 300))
    fresh = torch.randn(40, 6)
    torch.testing.assert_close(small(fresh), program(fresh), rtol=0, atol=1e-3)


def test_a_neuron_that_is_constant_goes_into_the_bias(random_context):
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5))
    with torch.no_grad():
        module[0].weight[2], module[0].bias[2] = 0, 3
    program = capture(module, (torch.randn(2, 6),))
    [group] = channel_groups(program)
    small, _ = recovered(program, {group.name: [0, 1, 3]}, random_context((torch.randn(2, 6),), 300))
    torch.testing.assert_close(read(small, "2.bias"), module[2].bias + 3 * module[2].weight[:, 2], rtol=1e-2, atol=1e-3)


# Networks of every kind


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_least_squares_comes_nearer_than_statistics_and_than_nothing(name, context_of):
    program, context = captured(name)[0], context_of(name, 200)
    program = recovered(program, {}, context, "statistics")[0]  # as trained networks do, it has the statistics of its data
    wanted = outputs(program, context)
    errors = {}
    for how in ("none", "statistics", "least-squares"):
        small, fitted = recovered(program, halves(program), context, how)
        errors[how] = float((outputs(small, context) - wanted).square().mean())
        assert bool(fitted) == (how == "least-squares")
    assert errors["least-squares"] < min(errors["none"], errors["statistics"])


@pytest.mark.parametrize("name", ["residual", "concat", "transformer"])
def test_the_whole_network_is_not_changed(name, context_of):
    program, context = captured(name)[0], context_of(name)
    before = fingerprint(program)
    recovered(program, halves(program), context)
    assert fingerprint(program) == before


def test_none_changes_nothing(context_of):
    program, context = captured("residual")[0], context_of("residual")
    small, fitted = recovered(program, halves(program), context, "none")
    assert fitted == []
    assert fingerprint(small) == fingerprint(cut(clone(program), halves(program)))


def test_fitted_are_the_layers_that_lost_inputs_and_no_other_tensor_but_statistics_moves(context_of):
    program, context = captured("residual")[0], context_of("residual")
    [inner] = [group.name for group in channel_groups(program) if group.name == "body.0.0.weight[0]"]
    keep = {inner: [0, 1, 5]}
    small, fitted = recovered(program, keep, context)
    bare = cut(clone(program), keep)
    moved = {name for name, tensor in small.state_dict().items() if not torch.equal(tensor, bare.state_dict()[name])}
    assert fitted == ["body.1.weight"]
    assert {name for name in moved if "running" not in name} == {"body.1.weight"}
    torch.testing.assert_close(read(small, "stem.1.running_mean"), values_of_batch_norm(program, context)["stem.1.running_mean"])


def values_of_batch_norm(program, context):
    """Return mean and variance of what reaches every batch norm, by the names of its buffers."""
    found = {}
    for node in program.graph.nodes:
        if node.target == torch.ops.aten.batch_norm.default:
            inputs = values_at(program, context, node.args[0]).double()
            over = [axis for axis in range(inputs.ndim) if axis != 1]
            found[str(node.args[3].target)] = inputs.mean(over).float()
            found[str(node.args[4].target)] = inputs.var(over).float()
    return found


@pytest.mark.parametrize("how", ["statistics", "least-squares"])
@pytest.mark.parametrize("name", ["residual", "depthwise", "one-dimensional"])
def test_batch_norms_hold_the_statistics_of_the_recovered_network(name, how, context_of):
    """Each was measured when the layers before it had been fitted: so all agree at the end."""
    program, context = captured(name)[0], context_of(name)
    small, _ = recovered(program, halves(program), context, how)
    for buffer, value in values_of_batch_norm(small, context).items():
        torch.testing.assert_close(read(small, buffer), value, rtol=1e-4, atol=1e-5)


def test_each_layer_is_at_the_least_squares_solution_for_the_inputs_that_it_gets(context_of):
    """Nothing that is added to a fitted weight lowers its error: the residual is orthogonal to its inputs."""
    program, context = captured("one-dimensional")[0], context_of("one-dimensional", 200)
    small, fitted = recovered(program, halves(program), context)
    for layer in layers(small):
        if layer.weight not in fitted:
            continue
        [whole] = [each for each in layers(program) if each.weight == layer.weight]
        wanted = whole.targets(values_at(program, context, whole.node))
        kept = next(
            (each.index for each in slices(program, halves(program))[layer.weight] if each.axis == 0), torch.arange(wanted.shape[1])
        )
        rows = layer.rows(values_at(small, context, layer.source))
        error = layer.targets(values_at(small, context, layer.node)) - wanted[:, kept]
        overlap = (rows.T @ error) / (rows.norm(dim=0)[:, None] * wanted[:, kept].norm(dim=0) + 1e-9)
        assert overlap.abs().max() < 5e-3  # not zero, for the damping


def test_what_is_represented_or_shared_is_not_fitted(context_of, random_context):
    program, context = captured("residual")[0], context_of("residual")
    for weight in weights(program, include=("body.1",)):
        represent(program, weight.name, Mask(torch.rand(weight.value.shape) > 0.5))
    small, fitted = recovered(program, halves(program), context)
    assert "body.1.weight" not in fitted
    assert "fc.weight" in fitted
    [mask] = [form for form in small.get_submodule("body.1").parametrizations.weight if isinstance(form, Mask)]
    assert not read(small, "body.1.weight")[~mask.keep].any()


def test_fitting_happens_in_slices_of_the_data_as_well_as_at_once(context_of, monkeypatch):
    program, context = captured("residual")[0], context_of("residual")
    found = [recovered(program, halves(program), context)[0]]
    monkeypatch.setattr("laconic.recover._ROWS", 500)
    found.append(recovered(program, halves(program), context)[0])
    torch.testing.assert_close(outputs(found[0], context), outputs(found[1], context), rtol=1e-3, atol=1e-4)
