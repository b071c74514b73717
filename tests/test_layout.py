"""Channels last in memory: used where a network computes in it, and only there."""

import pytest
import torch
from torch import nn

from laconic.data.dataset import Split
from laconic.errors import LaconicError
from laconic.program import capture, read
from laconic.program.groups import channel_groups
from laconic.train import Training, fit
from laconic.train.layout import suits, unsafe


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


def pointwise(channels):
    return nn.Sequential(
        nn.Conv2d(3, channels, 3), nn.Conv2d(channels, 8, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )


@pytest.mark.parametrize(("capability", "channels", "expected"), [("AVX2", 6, False), ("AVX2", 16, True), ("AVX512", 6, True)])
def test_kernels_that_break_memory_on_a_processor_are_not_trained_in_it_there(capability, channels, expected, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    model = pointwise(channels)
    assert suits(model, pictures(), torch.device("cpu")) is expected
    assert unsafe(model, torch.device("cpu")) == (None if expected else "1.weight")
    if not expected:
        with pytest.raises(LaconicError, match=r"would write beyond their memory in training 1.weight"):
            fit(model, pictures(), Training(epochs=1, channels_last=True))
        fit(model, pictures(), Training(epochs=1))


def test_a_network_that_is_cut_to_such_kernels_goes_on_without_it(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    program, seen = capture(pointwise(16).eval(), (torch.randn(2, 3, 8, 8),)), []
    [group] = [group.name for group in channel_groups(program) if group.channels == 16]

    def cut_once(done, total):
        seen.append(read(program, "1.weight").is_contiguous())
        return {group: range(6)} if done == 2 else None

    fit(program, pictures(), Training(epochs=4, batch=8, channels_last=True), after_batch=cut_once)
    assert read(program, "1.weight").shape == (8, 6, 1, 1)
    assert all(seen[2:])


def test_images_of_one_channel_are_computed_channels_last_too():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 2))
    strides = set()
    model[0].register_forward_hook(lambda _, __, output: strides.add((model.training, output.stride(1))))
    fit(model, pictures((1, 8, 8)), Training(epochs=1, batch=8, channels_last=True, autocast="off"))
    assert (True, 1) in strides
    assert (True, 36) not in strides
