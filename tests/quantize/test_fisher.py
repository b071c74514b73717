import pytest
import torch
import torch.nn.functional as F
from torch import nn

from laconic.program import capture
from laconic.program.observe import Piece
from laconic.quantize import fisher
from laconic.quantize.fisher import fisher_information


@pytest.fixture
def network():
    """A network, the part behind its middle, and values there."""
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).eval()
    program = capture(model, (torch.randn(2, 5),))
    middle = next(node.name for node in program.graph.nodes if node.target is torch.ops.aten.tanh.default)
    return model, Piece(program, middle, "output"), torch.randn(40, 6)


def of_class(model, value, label):
    """The derivative of one example's loss, if it had that label."""
    value = value.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model[2](value), torch.tensor(label)), value)[0]


def test_with_labels_it_is_the_square_of_each_examples_derivative(network):
    model, rest, values = network
    labels = torch.randint(4, (40,))
    wanted = torch.stack([of_class(model, value, int(label)).square() for value, label in zip(values, labels, strict=True)])
    found = fisher_information(rest, values, labels, torch.Generator())
    torch.testing.assert_close(found, wanted / wanted.mean())


def test_without_labels_it_is_that_of_every_label_as_likely_as_the_network_thinks(network, monkeypatch):
    monkeypatch.setattr(fisher, "_PROBES", 4000)
    model, rest, values = network
    values = values[:8]
    likely = model[2](values).softmax(1).detach()
    wanted = torch.stack(
        [sum(p[c] * of_class(model, value, c).square() for c in range(4)) for value, p in zip(values, likely, strict=True)]
    )
    found = fisher_information(rest, values, None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, wanted / wanted.mean(), rtol=0.15, atol=0.02)


def test_no_gradient_is_left_on_values_or_weights(network):
    _, rest, values = network
    for labels in (None, torch.randint(4, (40,))):
        assert not fisher_information(rest, values, labels, torch.Generator()).requires_grad
    assert not values.requires_grad
    assert all(parameter.grad is None for parameter in rest.module.parameters())
