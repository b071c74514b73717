import importlib.util

import pytest
import torch

from laconic.errors import LaconicError
from laconic.zoo import example, load


def test_without_timm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LaconicError, match="timm:resnet18 needs the package timm: pip install timm"):
        load("timm:resnet18")


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


def test_a_network_of_timm_is_built_with_options_and_runs_on_its_example(timm):
    spec = "timm:vit_tiny_patch16_224?img_size=32&depth=1&num_classes=7"
    model = load(spec)
    assert not model.training
    with torch.no_grad():
        assert model(*example(spec, model)).shape == (2, 7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet1", "timm has no network 'resnet1'; did you mean 'resnet18'.*list_models"),
        ("timm:resnet18?widht=3", "the model timm:resnet18 failed .*widht"),
        ("timm:resnet18?pretrained=maybe", "timm:resnet18 cannot take pretrained=maybe"),
    ],
)
def test_what_timm_cannot_build_is_told(timm, spec, message):
    with pytest.raises(LaconicError, match=message):
        load(spec)
