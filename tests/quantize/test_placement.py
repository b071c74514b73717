import pytest
import torch
import torch.nn.functional as F
from torch import nn

from laconic.program import Uniform, capture, fold_batch_norm, represent_edge, tidy, weights
from laconic.program.represent import edges, share_edge
from laconic.quantize.placement import quantized_points
from networks import Call


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def points(model, exclude=()):
    """Names of the quantized nodes, each with those that share its grid; checked to be placed before nothing else."""
    program = capture(model.eval(), (torch.randn(2, 3, 8, 8),))
    fold_batch_norm(program)
    found = quantized_points(program, weights(program, exclude=exclude))
    return {node.name: [later.name for later in shared] for node, shared in found.items()}


def test_the_activation_fused_into_a_kernel_is_quantized_and_the_kernels_own_output_is_not():
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 5))
    assert points(model) == {"input_1": [], "relu": []}


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, lambda: nn.Hardtanh(0.0, 2.0)])
def test_every_clamp_is_fused(activation):
    found = points(nn.Sequential(conv(3, 4), activation(), conv(4, 5)))
    assert len(found) == 2
    assert "conv2d" not in found


def test_what_the_network_returns_stays_float():
    assert points(nn.Sequential(conv(3, 4))) == {"input_1": []}
    assert points(nn.Sequential(conv(3, 4), nn.ReLU())) == {"input_1": []}


def test_both_operands_and_the_result_of_a_residual_sum_are_quantized():
    model = Call(lambda on, x: on["c"](F.relu(x + on["b"](F.relu(on["a"](x))))), a=conv(3, 3), b=conv(3, 3), c=conv(3, 2))
    assert points(model) == {"x": [], "relu": [], "conv2d_1": [], "relu_1": []}


def test_a_sum_without_an_activation_is_quantized_itself():
    model = Call(lambda on, x: on["b"](x + on["a"](x)), a=conv(3, 3), b=conv(3, 3))
    assert points(model) == {"x": [], "conv2d": [], "add": []}


def test_adding_a_constant_is_no_sum_of_activations():
    model = Call(lambda on, x: on["b"](torch.sigmoid(on["a"](x) + 1)), a=conv(3, 3), b=conv(3, 3))
    assert points(model) == {"x": [], "sigmoid": [], "conv2d": []}


def test_a_sum_far_from_any_integer_kernel_stays_float():
    model = Call(lambda on, x: on["a"](x).sigmoid() + x.tanh(), a=conv(3, 3))
    assert points(model) == {"x": [], "conv2d": []}


def test_a_concatenation_is_quantized_with_all_its_parts():
    model = Call(lambda on, x: on["c"](torch.cat([F.relu(on["a"](x)), F.relu(on["b"](x))], 1)), a=conv(3, 4), b=conv(3, 5), c=conv(9, 2))
    assert points(model) == {"x": [], "relu": [], "relu_1": [], "cat": []}


def test_max_pooling_shares_the_grid_of_what_it_chooses_from():
    found = points(nn.Sequential(conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 5)))
    assert found == {"input_1": [], "relu": ["max_pool2d"]}


def test_flattening_before_a_linear_layer_shares_the_grid():
    model = nn.Sequential(conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5))
    found = points(model)
    assert set(found) == {"input_1", "relu"}
    assert "flatten" in found["relu"]


def test_an_average_has_values_of_its_own_and_a_grid_of_its_own():
    found = points(nn.Sequential(conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)))
    assert set(found) == {"input_1", "relu", "flatten"}
    assert found["flatten"] == []


def test_zeros_put_around_a_picture_belong_to_the_convolution():
    model = Call(
        lambda on, x: on["b"](F.pad(F.relu(on["a"](F.pad(x, (0, 1, 0, 1)))), (1, 1, 1, 1))), a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 5, 3)
    )
    assert points(model) == {"x": [], "relu": []}


def test_padding_with_another_value_does_not():
    model = Call(lambda on, x: on["a"](F.pad(x, (1, 1, 1, 1), value=2.0)), a=nn.Conv2d(3, 4, 3))
    assert points(model) == {"pad": []}


def test_around_an_excluded_layer_nothing_is_quantized():
    model = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5), nn.ReLU(), conv(5, 6))
    assert points(model) == {"input_1": [], "relu": [], "relu_1": []}
    assert points(model, exclude=("4",)) == {"input_1": [], "relu": [], "relu_1": []}, "what the second layer writes is an integer"
    assert points(model, exclude=("0",)) == {"relu": [], "relu_1": []}
    assert points(model, exclude=("0", "2")) == {"relu_1": []}


def test_a_value_read_twice_is_quantized_once():
    model = Call(lambda on, x: on["a"](x) * on["b"](x).sigmoid(), a=conv(3, 3), b=conv(3, 3))
    assert points(model) == {"x": [], "conv2d": [], "conv2d_1": []}


def test_shared_grids_leave_the_values_that_the_first_has_given():
    """What is on the grid already is not changed by the same grid behind a pooling or a reshape."""
    program = capture(nn.Sequential(conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)), (torch.randn(2, 3, 8, 8),))
    found = quantized_points(program, weights(program))
    for node in found:
        represent_edge(program, node, Uniform(torch.tensor(0.03), torch.tensor(100.0), 8, signed=False))
    tidy(program)
    inputs = torch.randn(4, 3, 8, 8)
    once = program(inputs)
    nodes = {node.name: node for node in program.graph.nodes}
    edge = next(node for node in edges(program) if node.args[0].name == "relu")
    for name in ("max_pool2d", "flatten"):
        share_edge(program, nodes[name], edge)
    tidy(program)
    assert len(edges(program)) == 4
    assert torch.equal(program(inputs), once)
