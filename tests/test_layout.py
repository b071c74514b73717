"""Channels last in memory: used where a network computes in it, and only there."""

import pytest
import torch
from torch import nn

from laconic.data.dataset import Split
from laconic.program import capture
from laconic.train import Training, fit
from laconic.train.layout import suits


class Flattened(nn.Module):
    """A network that asks for a layout by name, as a captured graph may."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.classifier = nn.Linear(4 * 64, 2)

    def forward(self, images):
        return self.classifier(self.convolution(images).view(-1, 4 * 64))


def pooled():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def pictures(shape=(3, 8, 8)):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, *shape), generator=generator, dtype=torch.uint8).numpy()
    return Split(images, torch.arange(16).remainder(2).numpy(), (120.0,) * shape[0], (60.0,) * shape[0])


@pytest.mark.parametrize("training_mode", [True, False])
@pytest.mark.parametrize(("network", "expected"), [(pooled, True), (Flattened, False)])
def test_layout_is_tried_and_taken_back(network, expected, training_mode):
    model = network().train(training_mode)
    assert suits(model, pictures(), torch.device("cpu")) is expected
    assert model.training is training_mode
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_captured_graph_is_tried_too():
    program = capture(Flattened().eval(), (torch.zeros(3, 3, 8, 8),))
    assert not suits(program, pictures(), torch.device("cpu"))


def test_networks_without_images_or_kernels_stay_as_they_are():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    assert not suits(flat, pictures(), torch.device("cpu"))


@pytest.mark.parametrize("network", [pooled, Flattened])
def test_default_trains_what_refuses_the_layout(network):
    torch.manual_seed(0)
    fitted = fit(network(), pictures(), Training(epochs=1, batch=8))
    assert fitted.epochs == 1
