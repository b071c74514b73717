import pytest
import torch
from torch import nn

from laconic.measure import macs
from laconic.program import capture, clone, save
from laconic.program.blocks import blocks, only_for, pieces, remove
from laconic.program.file import load
from laconic.zoo.resnet import resnet20
from networks import NETWORKS, captured


def names(program):
    return [block.layers for block in blocks(program)]


class Gated(nn.Module):
    """A plain layer that keeps the shape, one that does not, and a residual branch."""

    def __init__(self):
        super().__init__()
        self.plain, self.wider, self.branch = nn.Linear(6, 6), nn.Linear(6, 8), nn.Linear(8, 8)

    def forward(self, x):
        hidden = torch.relu(self.plain(x))
        hidden = torch.tanh(self.wider(hidden))
        return hidden + self.branch(hidden).sigmoid()


class Skipping(nn.Module):
    """A long skip: inside it nothing but the branches of sums may go."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(12, 6)

    def forward(self, x):
        return self.outer(torch.cat([x, self.inner(x)], 1))


def test_every_identity_block_of_a_residual_network_may_go_and_no_other():
    program = capture(resnet20(), (torch.randn(2, 3, 32, 32),))
    expected = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3) if (stage, block) not in ((2, 0), (3, 0))]
    assert names(program) == [(f"{name}.conv1.weight", f"{name}.conv2.weight") for name in expected]


def test_plain_layers_that_keep_the_shape_and_branches_may_go():
    program = capture(Gated(), (torch.randn(2, 6),))
    assert names(program) == [("plain.weight",), ("branch.weight",)]


def test_a_value_that_is_needed_elsewhere_closes_no_block():
    assert names(capture(Skipping(), (torch.randn(2, 6),))) == []


def test_without_a_block_the_network_computes_what_it_does_when_the_input_is_passed_on():
    model = Gated().eval()
    program, inputs = capture(model, (torch.randn(2, 6),)), torch.randn(5, 6)
    plain, branch = blocks(program)
    hidden = torch.tanh(model.wider(inputs))
    assert torch.allclose(remove(clone(program), plain)(inputs), hidden + model.branch(hidden).sigmoid(), atol=1e-6)
    whole = torch.tanh(model.wider(torch.relu(model.plain(inputs))))
    assert torch.allclose(remove(clone(program), branch)(inputs), whole, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_without_any_one_of_its_blocks_runs_costs_less_and_is_saved(name, tmp_path):
    program, example = captured(name)
    for block in blocks(program):
        left = remove(clone(program), block)
        output = left(*example)
        assert output.shape == program(*example).shape
        assert macs(left, example) < macs(program, example)
        assert not set(block.layers) & set(dict(left.named_parameters()))
        save(left, tmp_path / "left.safetensors")
        assert torch.equal(load(tmp_path / "left.safetensors")(*example), output)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_goes_with_a_block_is_known_before_it_goes(name):
    program, _ = captured(name)
    for block in blocks(program):
        left = {node.name for node in remove(clone(program), block).graph.nodes}
        assert {node.name for node in only_for(program, block)} == {node.name for node in program.graph.nodes} - left


def test_the_blocks_that_are_left_may_go_too_until_none_is():
    program, example = capture(resnet20(), (torch.randn(2, 3, 32, 32),)), (torch.randn(2, 3, 32, 32),)
    while found := blocks(program):
        program = remove(program, found[0])
    assert program(*example).shape == (2, 10)
    assert macs(program, example) < 0.35 * macs(capture(resnet20(), example), example)


def test_a_residual_block_is_one_piece_and_so_is_every_layer_between_blocks():
    program, _ = captured("residual")
    found, nodes = pieces(program), list(program.graph.nodes)
    parts = [nodes[nodes.index(start) + 1 : nodes.index(end) + 1] for start, end in found]
    counts = [sum(node.target in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default) for node in part) for part in parts]
    assert counts == [1, 3, 1]
    assert [end for _, end in found[:-1]] == [start for start, _ in found[1:]]
    assert found[0][0].op == "placeholder"
    assert [found[-1][1]] == nodes[-1].all_input_nodes
    assert torch.ops.aten.relu.default in [node.target for node in parts[1]], "the activation belongs to the block before it"
