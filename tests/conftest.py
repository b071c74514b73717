"""What many tests share: small real data, a small network that was trained on it, and everything around them."""

import copy
import functools
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from laconic import fresh
from laconic.context import Context
from laconic.data import Dataset, Split, Splits, split
from laconic.errors import LaconicError
from laconic.program import Program, capture, clone
from laconic.report import plots
from laconic.train import Training, fit
from laconic.zoo.timm import mend_torchvision

mend_torchvision()  # before timm and transformers, where a test needs them


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _operators_read_once():
    """Read the exporter's operators once: it would do so anew for every file, in half of the time that a small one takes."""
    read = functools.cache(ONNXRegistry.from_torchlib)

    def copied(*_, opset_version):
        registry = copy.copy(read(opset_version))
        registry.functions = {target: [*forms] for target, forms in registry.functions.items()}
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(copied))
        yield


@pytest.fixture(autouse=True)
def _seed(request):
    """Start every test at its own seed, so that its outcome depends on no other test."""
    seed = zlib.crc32(request.node.nodeid.encode())
    torch.manual_seed(seed)
    np.random.seed(seed)


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Draw the pictures of reports only where reports are tested: they take a second of every command."""
    if "report" not in request.path.parts:
        monkeypatch.setattr(plots, "png", lambda chart, path: None)


@pytest.fixture(autouse=True, scope="module")
def _measured_here(request):
    """Measure in this process and briefly, but where fresh processes or the claims of receipts are tested: each takes seconds."""
    if request.path.stem in ("test_fresh", "test_verify", "test_race"):
        yield
        return

    def work(folder, threads, trouble):
        path = folder / "request.json"
        asked = json.loads(path.read_text())
        if "seconds" in asked["settings"]:
            asked["settings"]["seconds"] = 0.05
        path.write_text(json.dumps(asked))
        try:
            fresh._work(folder)
        except Exception as error:
            raise LaconicError(f"{trouble}: {error}") from error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh, "_run", work)
        yield


class SmallNetwork(nn.Module):
    """Convolutions with batch norm, a residual sum and a linear head, for pictures of 1 x 8 x 8 and ten classes."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.left, self.left_norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.right, self.right_norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.down, self.down_norm = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.relu, self.flatten = nn.ReLU(), nn.Flatten()
        self.head = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x):
        x = self.relu(self.stem_norm(self.stem(x)))
        inner = self.relu(self.left_norm(self.left(x)))
        x = self.relu(x + self.right_norm(self.right(inner)))
        x = self.relu(self.down_norm(self.down(x)))
        return self.head(self.flatten(x))


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """The handwritten digits of scikit-learn, cut down: 500 to train on, 300 for the test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    every = Split(images.reshape(-1, 1, 8, 8).astype(np.uint8)[order], labels.astype(np.int64)[order], (4.9,), (6.0,))
    return Dataset(
        every.take(slice(500, 800)), every.take(slice(0, 500)), validation=every.take(slice(800, 1100)), classes=tuple("0123456789")
    )


@pytest.fixture(scope="session")
def splits(dataset) -> Splits:
    return split(dataset, seed=0, calibration=128)


@pytest.fixture
def context(splits) -> Context:
    """A context of the digits, with an empty journal."""
    return Context(splits)


@pytest.fixture
def untrained_context(splits) -> Context:
    """A context without training data."""
    return Context(replace(splits, train=None))


@pytest.fixture(scope="session")
def make_context(splits):
    """A factory of contexts: the digits, with whatever is to be another."""

    def make(**changes) -> Context:
        return replace(Context(splits), **{"notes": [], **changes})

    return make


@pytest.fixture(scope="session")
def _trained(splits) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmallNetwork()
    fitted = fit(model, splits.train, Training(epochs=6, batch=32, learning_rate=0.05, autocast="off"), validation=splits.validation)
    assert fitted.score > 0.93, "the tests below compare accuracies, which must mean something"
    return model


@pytest.fixture
def model(_trained) -> nn.Module:
    """A trained network of a user's class, in eval mode; each test has its own."""
    fresh = SmallNetwork()
    fresh.load_state_dict(_trained.state_dict())
    return fresh.eval()


@pytest.fixture
def untrained() -> nn.Module:
    torch.manual_seed(0)
    return SmallNetwork().eval()


@pytest.fixture(scope="session")
def _captured(_trained, splits) -> Program:
    return capture(_trained, Context(splits).example())


@pytest.fixture
def program(_captured) -> Program:
    """The trained network as a program; each test has its own."""
    return clone(_captured)
