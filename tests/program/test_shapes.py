"""Shapes found without computing are those that torch finds when a network is captured."""

import pytest
import torch
from torch import nn

from laconic.program import capture
from laconic.program.shapes import infer_shapes
from networks import NETWORKS, captured


class Recurrent(nn.Module):
    """Two layers over five steps, with all that they give."""

    def __init__(self, layer, **settings):
        super().__init__()
        self.layer = layer(6, 8, 2, **settings)

    def forward(self, steps):
        outputs, states = self.layer(steps)
        states = [states] if isinstance(states, torch.Tensor) else states
        return outputs, *(state.movedim(1, 0) for state in states)


def told(program):
    """Return the shapes and types of all values, with the free batch as None."""

    def of(value):
        if isinstance(value, tuple | list):
            return [of(each) for each in value]
        if not isinstance(value, torch.Tensor):
            return type(value)
        return [size if type(size) is int else None for size in value.shape], value.dtype

    return {node.name: of(node.meta["val"]) for node in program.graph.nodes if node.op != "output"}


def unknown(program):
    for node in program.graph.nodes:
        node.meta.pop("val", None)
    return program


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_of_every_kind_of_network_are_those_of_its_capture(name):
    program, _ = captured(name)
    expected = told(program)
    found = told(infer_shapes(unknown(program)))
    assert found == expected


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize(("layer", "settings"), [(nn.GRU, {}), (nn.RNN, {}), (nn.LSTM, {}), (nn.LSTM, {"proj_size": 3})])
@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # torch.export's, of recurrent layers
def test_shapes_of_recurrent_layers_are_those_of_their_capture(layer, settings, both_ways):
    network = Recurrent(layer, bidirectional=both_ways, batch_first=True, **settings).eval()
    program = capture(network, (torch.zeros(3, 5, 6),))
    expected = told(program)
    found = told(infer_shapes(unknown(program)))
    assert found == expected
