"""What is known about channels, against what `cut` removes, direct computation and the loss itself."""

import gc

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from laconic.program import Mask, Uniform, capture, clone, read, represent, weights
from laconic.program.cut import cut
from laconic.program.groups import channel_groups, find
from laconic.program.layers import layers
from laconic.program.observe import observe
from laconic.program.zero import zero
from laconic.prune.evidence import gradients, input_moments, output_sensitivity, parameters, readers, rows, scale_slots, weight_slots
from networks import NETWORKS, captured

every_network = pytest.mark.parametrize("name", NETWORKS)


# Rows


def numbered(program):
    """Write into every entry of every floating-point tensor that the graph reads a number that no other entry has."""
    start = 1
    for name in find(program).walk.tensors:
        tensor = read(program, name)
        if tensor.is_floating_point():
            tensor.data = torch.arange(start, start + tensor.numel()).float().reshape(tensor.shape)
            start += tensor.numel()
    return program


def entries(program, names):
    return {float(value) for name in names for value in read(program, name).detach().flatten().float()}


@every_network
def test_the_rows_of_channels_are_the_entries_that_cutting_them_removes(name):
    program = numbered(captured(name)[0])
    groups, before = channel_groups(program), clone(program)
    names = [name for name in find(program).walk.tensors if read(program, name).is_floating_point()]
    gone = set()
    for group in groups:
        found = rows(group, lambda each: read(before, each))
        assert found.shape[0] == group.channels
        gone.update(found[-1].tolist())
    cut(program, {group.name: range(group.channels - 1) for group in groups})
    assert entries(before, names) - entries(program, names) == gone


@every_network
def test_zeroing_a_channel_zeroes_its_row_and_no_other_entry(name):
    before = numbered(captured(name)[0])
    groups, zeroed = channel_groups(before), clone(before)
    zero(zeroed, {group.name: [c for c in range(group.channels) if c != group.channels // 2] for group in groups})
    names = [name for name in find(before).walk.tensors if read(before, name).is_floating_point()]
    own = {value for group in groups for value in rows(group, lambda each: read(before, each))[group.channels // 2].tolist()}
    assert entries(before, names) - entries(zeroed, names) == own
    for group in groups:
        assert not rows(group, lambda each: read(zeroed, each))[group.channels // 2].any()


def test_rows_may_be_of_some_slots_and_of_any_tensor_of_their_shape():
    program, _ = captured("convolution")
    group = channel_groups(program)[0]
    [slot] = [slot for slot in group.slots if slot.tensor == "features.0.0.weight"]
    assert torch.equal(rows(group, lambda name: read(program, name), [slot]), read(program, slot.tensor).flatten(1))
    assert torch.equal(rows(group, lambda name: torch.ones(read(program, name).shape), [slot]), torch.ones(6, 27))
    assert rows(group, lambda name: read(program, name), []).shape == (6, 0)


def test_channels_that_own_several_positions_have_them_in_one_row():
    """Eight channels of 2 x 2 positions, flattened: a channel reads four columns of the linear layer."""
    program = capture(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(32, 5)), (torch.randn(2, 3, 2, 2),))
    [group] = channel_groups(program)
    weight = read(program, "2.weight").detach()
    [slot] = [slot for slot in group.slots if slot.tensor == "2.weight"]
    found = rows(group, lambda name: read(program, name), [slot])
    for channel in range(8):
        assert set(found[channel].tolist()) == set(weight[:, 4 * channel : 4 * channel + 4].flatten().tolist())


def test_slots_are_told_apart_by_what_they_are_in():
    program, _ = captured("residual")
    [inner] = [group for group in channel_groups(program) if group.name == "body.0.0.weight[0]"]
    assert {slot.tensor for slot in weight_slots(program, inner)} == {"body.0.0.weight", "body.1.weight"}
    assert {slot.tensor for slot in scale_slots(program, inner)} == {"body.0.1.weight"}
    assert [layer.weight for layer, _ in readers(find(program), inner)] == ["body.1.weight"]


# Inputs


@pytest.mark.parametrize("name", ["convolution", "attention", "one-dimensional", "dropout"])
def test_the_moments_of_inputs_give_the_energy_of_any_weights_outputs(name, context_of):
    """`mean |x @ v|^2 = v M v`, with any weights in the layer's place, and the outputs as the operation computes them."""
    program, context = captured(name)[0], context_of(name)
    found = layers(program)
    moments = input_moments(program, context, found)
    for layer in found:
        weight, outputs = with_other_weights(program, context, layer)
        energy = (weight @ moments[layer.node.name].mean @ weight.T).diagonal()
        torch.testing.assert_close(energy, outputs.square().mean(0), rtol=1e-4, atol=1e-6)


def with_other_weights(program, context, layer):
    """Return random weights (out, in), and what a layer computes with them in place of its own: (positions, out)."""
    other, seen = clone(program), []
    [same] = [each for each in layers(other) if each.weight == layer.weight]
    with torch.no_grad():
        read(other, layer.weight).normal_()
        if layer.bias:
            read(other, layer.bias).zero_()
    observe(other, ((x,) for x in context.calibration()), [same.node], lambda _, value: seen.append(same.targets(value)))
    return read(other, layer.weight).detach().flatten(1).double(), torch.cat(seen).double()


def test_moments_do_not_depend_on_how_the_data_is_batched(random_context, monkeypatch):
    program, example = captured("convolution")
    context = random_context(example, 70)
    found = input_moments(program, context, layers(program))
    monkeypatch.setattr("laconic.prune.evidence._BATCH", 9)
    for name, moments in input_moments(program, context, layers(program)).items():
        torch.testing.assert_close(moments.shrunk, found[name].shrunk, rtol=1e-5, atol=1e-6)


# Gradients


def sharp():
    """A small network whose predictions are neither flat nor certain."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 9, 4))
    with torch.no_grad():
        module[5].weight.mul_(3)
    return capture(module.eval(), (torch.randn(2, 2, 6, 6),))


def with_noise(program, node, noise):
    """Return the log-probabilities of a program with noise added to what a node computes."""

    class Noisy(torch.fx.Interpreter):
        def run_node(self, n):
            value = super().run_node(n)
            return value + noise if n == node else value

    return lambda inputs: F.log_softmax(Noisy(program).run(inputs), 1)


def test_sensitivity_is_what_noise_on_an_output_costs_by_the_exact_fisher_information(random_context):
    """Against every label by its own probability, and against the divergence of the predictions when noise is really added."""
    program = sharp()
    context = random_context((torch.randn(2, 2, 6, 6),), 2000)
    found = layers(program)
    sensitivity = output_sensitivity(program, context, found)
    inputs = torch.cat(list(context.calibration()))[:300]
    for layer in found:
        exact = torch.zeros(layer.shape[0]).double()
        shape = {"conv2d": (300, 4, 4, 4), "conv2d_1": (300, 3, 3, 3), "linear": (300, 4)}[layer.node.name]
        nothing = torch.zeros(shape, requires_grad=True)
        logs = with_noise(program, layer.node, nothing)(inputs)
        for label in range(4):
            [slope] = torch.autograd.grad(logs[:, label].sum(), nothing, retain_graph=True)
            chance = logs[:, label].exp().detach().reshape(-1, *[1] * (slope.ndim - 1))
            exact += 0.5 * layer.targets(chance * slope.square()).double().sum(0) / 300
        torch.testing.assert_close(sensitivity[layer.node.name], exact, rtol=0.15, atol=1e-4)
        for output in range(layer.shape[0]):
            noise = torch.zeros(shape)
            noise.select(1, output).normal_(0, 0.02)
            with torch.no_grad():
                costs = F.kl_div(with_noise(program, layer.node, noise)(inputs), logs, reduction="batchmean", log_target=True)
            assert float(costs) == pytest.approx(float(exact[output]) * 0.02**2, rel=0.15)


def test_what_does_not_reach_the_loss_is_not_sensitive(context_of):
    program, context = captured("two-outputs")[0], context_of("two-outputs")
    found = output_sensitivity(program, context, layers(program))
    by_weight = {layer.weight: found[layer.node.name] for layer in layers(program)}
    assert by_weight["classes.weight"].min() > 0
    assert not by_weight["box.weight"].any()


def test_what_runs_without_gradient_is_sensitive_all_the_same(context_of):
    program, context = captured("no-grad")[0], context_of("no-grad")
    found = output_sensitivity(program, context, layers(program))
    assert all(each.max() > 0 for each in found.values())
    assert all(slope.any() for _, each in gradients(program, context) for slope in each.values())


def test_gradients_are_those_of_backward_on_the_networks_own_labels(context_of):
    program, context = captured("convolution")[0], context_of("convolution", 20)
    batches = list(gradients(program, context, batch=8))
    assert [examples for examples, _ in batches] == [8, 8, 4]
    generator = context.generator()
    for inputs, (_, found) in zip(context.calibration(8), batches, strict=True):
        outputs = program(inputs)
        labels = torch.multinomial(outputs.detach().softmax(1), 1, generator=generator)[:, 0]
        F.cross_entropy(outputs, labels).backward()
        assert found.keys() == dict(program.named_parameters()).keys()
        for name, parameter in program.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
        program.zero_grad()


def test_own_labels_do_not_follow_the_data(context_of):
    program, context = captured("residual")[0], context_of("residual")
    again = context_of("residual")
    again.splits.calibration.labels[:] = 0
    for (_, one), (_, other) in zip(gradients(program, context), gradients(program, again), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_gathering_evidence_leaves_the_program_as_it_was(context_of):
    program, context = captured("residual")[0], context_of("residual")
    program.get_parameter("fc.weight").requires_grad_(False)
    program.get_parameter("fc.bias").grad = torch.ones(5)
    before = {name: (tensor.clone(), tensor.requires_grad, tensor.grad) for name, tensor in program.state_dict(keep_vars=True).items()}
    list(gradients(program, context))
    output_sensitivity(program, context, layers(program))
    input_moments(program, context, layers(program))
    for name, tensor in program.state_dict(keep_vars=True).items():
        value, flag, grad = before[name]
        assert torch.equal(tensor, value)
        assert tensor.requires_grad == flag
        assert tensor.grad is grad
    assert not program.training


def test_represented_weights_have_gradients_of_their_dense_view(context_of):
    program, context = captured("residual")[0], context_of("residual")
    plain = clone(program)
    for weight in weights(program):
        represent(program, weight.name, Mask(torch.ones_like(weight.value).bool()))
    scale = read(program, "fc.weight").abs().max().detach() / 2**15
    represent(program, "fc.weight", Uniform(scale, torch.zeros(()), 16))
    assert parameters(program) == parameters(plain)
    for (_, one), (_, other) in zip(gradients(program, context), gradients(plain, context), strict=True):
        for name in parameters(plain):
            torch.testing.assert_close(one[name], other[name], rtol=1e-2, atol=1e-3)


def test_what_was_gathered_does_not_hold_parameters_that_are_cut_later(context_of):
    """A graph that garbage collection has not reached yet would expect gradients of the old shape."""
    program, context = captured("residual")[0], context_of("residual")
    gc.collect()
    gc.disable()
    try:
        list(gradients(program, context))
        output_sensitivity(program, context, layers(program))
        cut(program, {group.name: [0, 2, 3] for group in channel_groups(program)})
        program(*context.example()).sum().backward()
    finally:
        gc.enable()
    assert all(parameter.grad.shape == parameter.shape for parameter in program.parameters())
