"""What calibration tells of a layer when its turn comes."""

import torch
from torch import nn

from laconic.numeric.moments import Moments
from laconic.program import capture, sequential


class Stream(nn.Module):
    """A residual stream; dropout is nothing in eval mode."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.dropout = nn.Linear(24, 48), nn.Linear(48, 24), nn.Dropout(0.1)

    def forward(self, values):
        return values + self.dropout(self.down(torch.relu(self.up(values))))


def test_what_a_layer_is_added_to_is_found_behind_dropout_and_only_where_it_is_known():
    program = capture(Stream().eval(), (torch.zeros(2, 6, 24),))
    nodes = {node.name: node for node in program.graph.nodes}
    linears = [node for node in nodes.values() if node.target is torch.ops.aten.linear.default]
    values = {node: torch.zeros(2, 6, 24) for node in nodes.values()}
    assert not sequential.added_to(linears[0], values), "a relu reads it"
    [entry] = sequential.added_to(linears[1], values)
    assert entry.op == "placeholder"
    assert not sequential.added_to(linears[1], {})
    assert not sequential.added_to(linears[1], {entry: torch.zeros(2, 1, 24)}), "it would have to be spread"


def test_the_correction_is_the_regression_of_what_the_outputs_lack():
    inputs, lack = torch.randn(400, 6).double() @ torch.randn(6, 6).double(), torch.randn(400, 3).double()
    moments = Moments.of(6)
    moments.add(inputs, 400)
    moments.squares = 0.0  # as if all examples agreed: nothing is in doubt
    ridge = (sequential._DAMPING * inputs.square().sum(0).mean()).sqrt() * torch.eye(6).double()
    wanted = torch.linalg.lstsq(torch.cat([inputs, ridge]), torch.cat([lack, torch.zeros(6, 3).double()])).solution.T
    torch.testing.assert_close(sequential.Seen(moments, inputs.T @ lack).correction(), wanted)


def test_what_one_example_tells_corrects_nothing():
    moments = Moments.of(6)
    moments.add(torch.randn(50, 6), 1)
    assert not sequential.Seen(moments, torch.randn(6, 3).double()).correction().any()
