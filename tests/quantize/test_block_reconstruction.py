from dataclasses import replace

import pytest
import torch
from torch import nn

from laconic.program import Uniform, capture, clone, fold_batch_norm, read, weights
from laconic.program.blocks import stretches
from laconic.program.represent import edges, representations
from laconic.prune import Magnitude
from laconic.quantize import Static
from networks import captured

SETTINGS = {"weight_bits": 3, "activation_bits": 3, "rounding": "block", "iterations": 60}


def distance(program, other, context):
    with torch.no_grad():
        return sum(float((program(x) - other(x)).pow(2).sum()) for x in context.calibration())


def test_a_residual_block_is_one_stretch_and_so_is_every_layer_between_blocks():
    program, _ = captured("residual")
    found = stretches(program)
    convolution = torch.ops.aten.conv2d.default
    nodes = list(program.graph.nodes)
    counts = [sum(node.target is convolution for node in nodes[nodes.index(start) + 1 : nodes.index(end) + 1]) for start, end in found]
    assert counts == [1, 3, 0]
    assert [end for _, end in found[:-1]] == [start for start, _ in found[1:]]
    assert found[0][0].op == "placeholder"
    last = [node.target for node in nodes[: nodes.index(found[1][1])]]
    assert torch.ops.aten.relu.default in last[nodes.index(found[1][0]) + 1 :], "the activation belongs to the block before it"
    assert nodes[-1].all_input_nodes == [found[-1][1]]


def test_a_trained_network_comes_nearer_to_what_it_was_than_layer_by_layer(program, context):
    original = clone(program)
    layer, block = (Static(**SETTINGS | {"rounding": how})(clone(program), context) for how in ("layer", "block"))
    assert distance(block, original, context) < 0.9 * distance(layer, original, context)
    assert any("4 blocks reconstructed" in note for note in context.notes)


def test_steps_of_activations_and_roundings_are_learned_and_no_scale_of_weights(program, context):
    layer, block = (Static(**SETTINGS | {"rounding": how}, bias_correction=False)(clone(program), context) for how in ("layer", "block"))
    for weight in weights(block):
        [before], [after] = (representations(each, weight.name) for each in (layer, block))
        assert torch.equal(before.scale, after.scale)
    steps = [[form.scale.item() for form in edges(each).values()] for each in (layer, block)]
    assert steps[0] != steps[1]
    assert steps[0][0] == steps[1][0], "the grid of the network's input is no block's output"
    assert all(parameter.grad is None for parameter in block.parameters())


def test_every_code_is_one_of_the_two_next_to_the_weight(program, context):
    dense = clone(program)
    fold_batch_norm(dense)
    Static(**SETTINGS)(program, context)
    for weight in weights(program):
        [grid] = [form for form in representations(program, weight.name) if isinstance(form, Uniform)]
        step = grid.step.detach().reshape(-1, *[1] * (weight.value.ndim - 1))
        assert ((weight.value - read(dense, weight.name)).abs() < step * 1.001).all()


def test_what_a_mask_holds_at_zero_stays_zero(program, context):
    Magnitude(sparsity=0.6)(program, context)
    zeros = {weight.name: weight.value == 0 for weight in weights(program)}
    Static(**SETTINGS)(program, context)
    assert not any(weight.value[zeros[weight.name]].any() for weight in weights(program))


def test_the_result_is_the_same_for_the_same_seed(program, context):
    made = [Static(**SETTINGS)(clone(program), replace(context, seed=3)) for _ in range(2)]
    one, other = (each.state_dict() for each in made)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_block_that_does_not_come_nearer_is_left_as_it_was(program, context, monkeypatch):
    monkeypatch.setattr("laconic.quantize.block_reconstruction.RATE", 5.0)
    monkeypatch.setattr("laconic.quantize.block_reconstruction._STEP_RATE", 3.0)
    layer, block = (Static(**SETTINGS | {"rounding": how}, bias_correction=False)(clone(program), context) for how in ("layer", "block"))
    one, other = (each.state_dict() for each in (layer, block))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any("0 blocks reconstructed, not those of stem.weight" in note for note in context.notes)


@pytest.mark.parametrize("bias_correction", [True, False])
def test_layers_that_share_a_weight_keep_it(make_context, splits, bias_correction):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.flatten, self.first, self.inner, self.head = nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

        def forward(self, x):
            x = torch.relu(self.first(self.flatten(x)))
            return self.head(torch.relu(self.inner(torch.relu(self.inner(x)))))

    context = make_context()
    program = capture(Shared().eval(), context.example())
    settings = SETTINGS | {"bias_correction": bias_correction}
    made = [Static(**settings | {"rounding": how})(clone(program), context) for how in ("nearest", "block")]
    assert torch.equal(*(read(each, "inner.weight") for each in made))
