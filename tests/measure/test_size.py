import torch
from torch import nn
from torch.nn.utils import parametrize

from laconic.measure import file_bytes, nonzero_parameters, parameters


class Scaled(nn.Module):
    """Stands for a quantizer: has scales of its own."""

    def __init__(self, rows):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(rows, 1))

    def forward(self, weight):
        return weight * self.scale


class FirstColumn(nn.Module):
    """Stands for a mask."""

    def forward(self, weight):
        return weight * (torch.arange(weight.shape[1]) == 0)


class Factors(nn.Module):
    """Stands for a low-rank weight: stores two tensors, shows their product."""

    def forward(self, left, right):
        return left @ right

    def right_inverse(self, weight):
        return torch.ones(weight.shape[0], 2), torch.ones(2, weight.shape[1])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight


def test_a_plain_network_counts_every_entry_and_no_buffer():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5))
    assert parameters(module) == (3 * 8 * 9 + 8) + 2 * 8 + (8 * 5 + 5)


def test_tied_tensors_count_once():
    assert parameters(Tied()) == 16


def test_tied_tensors_represented_on_both_sides_count_once():
    module = Tied()
    for side in (module.first, module.second):
        parametrize.register_parametrization(side, "weight", FirstColumn())
    assert (parameters(module), nonzero_parameters(module)) == (16, 4)


def test_a_module_used_twice_counts_once():
    layer = nn.Linear(4, 4)
    assert parameters(nn.Sequential(layer, layer)) == 20


def test_a_parametrized_tensor_counts_with_its_dense_view_and_without_its_scales():
    module = nn.Sequential(nn.Linear(4, 3))
    parametrize.register_parametrization(module[0], "weight", Scaled(3))
    assert parameters(module) == 15


def test_factors_count_as_the_matrix_that_they_make():
    module = nn.Linear(10, 6, bias=False)
    parametrize.register_parametrization(module, "weight", Factors())
    assert sum(parameter.numel() for parameter in module.parameters()) == 32
    assert parameters(module) == 60


def test_excluded_submodules_do_not_count():
    module = nn.ModuleDict({"layer": nn.Linear(4, 3), "edges": nn.ModuleDict({"relu": Scaled(1)})})
    assert parameters(module) == 16
    assert parameters(module, exclude=("edges",)) == nonzero_parameters(module, exclude=("edges.*",)) == 15


def test_zeros_of_the_dense_view_are_not_counted():
    module = nn.Linear(4, 3)
    nn.init.ones_(module.weight)
    nn.init.zeros_(module.bias)
    parametrize.register_parametrization(module, "weight", FirstColumn())
    assert nonzero_parameters(module) == 3


def test_the_bytes_of_a_file_include_the_weights_beside_it(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"12345")
    assert file_bytes(model) == 5
    (tmp_path / "model.onnx.data").write_bytes(b"123")
    (tmp_path / "other.txt").write_bytes(b"1")
    assert file_bytes(model) == 8
    assert file_bytes(tmp_path) == 9
