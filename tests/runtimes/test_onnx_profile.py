"""Time by layer: every kernel of the runtime's profile is found again under its layer, whatever the runtime has fused."""

import onnx
import pytest
import torch
from torch import nn

from laconic import fresh
from laconic.program import capture, fold_batch_norm
from laconic.runtimes import onnxruntime
from laconic.runtimes.onnx_profile import mark
from networks import quantize

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.heavy = nn.Conv2d(16, 16, 3, padding=1)
        self.light = nn.Conv2d(16, 16, 1, stride=8)
        self.skip = nn.Conv2d(16, 16, 1, stride=8)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(self.light(torch.relu(self.heavy(x))) + self.skip(x))
        return self.fc(x.mean((2, 3)))


LAYERS = {"stem.0", "heavy", "light", "skip", "fc"}


@pytest.fixture(scope="module", params=["float", "int8"])
def file(request, tmp_path_factory):
    torch.manual_seed(0)
    inputs = torch.randn(8, 3, 64, 64)
    program = capture(Residual().eval(), (inputs,))
    if request.param == "int8":
        quantize(program, (inputs,))
    else:
        fold_batch_norm(program)
    path = tmp_path_factory.mktemp("profile") / "network.onnx"
    onnxruntime.export(program, (inputs,), path)
    return fresh.File(path), inputs.numpy()


def test_every_layer_has_its_time_and_the_heaviest_the_most(file):
    spent = fresh.layer_seconds(*file, threads=1, calls=40)
    assert set(spent) == {*LAYERS, ""}
    assert all(spent[name] > 0 for name in LAYERS)
    assert spent["heavy"] > 3 * max(spent["light"], spent["skip"], spent["fc"])  # 18 and 144 times the multiply-accumulates, and more


def test_what_follows_a_layer_is_its_own_and_nothing_else_changes(file):
    model = onnx.load(file[0].path)
    kinds = [node.op_type for node in model.graph.node]
    layers = mark(model)
    assert set(layers) == LAYERS
    assert [node.op_type for node in model.graph.node] == kinds
    onnx.checker.check_model(model)
    owners = {node.op_type: layers[int(node.name.split("|")[0].removeprefix("layer"))] for node in model.graph.node if node.name}
    assert owners["ReduceMean"] in ("light", "skip")
    assert owners["Gemm"] == "fc"
