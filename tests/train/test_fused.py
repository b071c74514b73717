import copy
import shutil

import pytest
import torch
from torch import nn

from laconic.errors import LaconicError
from laconic.numeric.learned_step import learned_step
from laconic.train import Training, fit, fused

TRAINING = Training(epochs=1, batch=256, learning_rate=0.05, autocast="off")


class Rounded(nn.Module):
    """A linear layer of rounded inputs; it counts its calls."""

    def __init__(self):
        super().__init__()
        self.fc, self.step, self.calls = nn.Linear(64, 10), nn.Parameter(torch.tensor(0.2)), 0

    def forward(self, x):
        self.calls += not torch.compiler.is_compiling()
        return self.fc(learned_step(x.flatten(1), self.step, torch.tensor(0.0), torch.tensor(15.0)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own, inside the compiler
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiled_network_learns_the_same(splits):
    torch.manual_seed(0)
    models = [Rounded()]
    models.append(copy.deepcopy(models[0]))
    train = splits.train.take(slice(0, 500))  # a batch and a smaller one
    for model, compiled in zip(models, (False, True), strict=True):
        fit(model, train, TRAINING, compiled=compiled)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert [model.calls for model in models] == [2, 1]


def test_what_cannot_be_compiled_is_said(splits, monkeypatch):
    monkeypatch.setattr(fused.shutil, "which", lambda _: None)
    with pytest.raises(LaconicError, match=r"takes a C\+\+ compiler, .* none was found"):
        fit(Rounded(), splits.train, TRAINING, compiled=True)
