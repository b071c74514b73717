import pytest
import torch
import torch.nn.functional as F
from torch import nn

from laconic.numeric.rounding import consecutive_groups
from laconic.program import Codebook, Mask, Uniform, capture, fold_batch_norm, packed, read, represent, weights
from laconic.program.fold import absorb_statistics, bias_of, set_bias
from networks import NETWORKS, captured

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
FOLDED = {"convolution": 2, "residual": 4, "concat": 3, "grouped": 2, "depthwise": 3, "one-dimensional": 1}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trained(norm):
    """Give a norm statistics and weights as after training, one gain negative, one channel's variance tiny."""
    with torch.no_grad():
        if norm.running_mean is not None:
            norm.running_mean.copy_(random(norm.num_features, seed=1))
            norm.running_var.copy_(random(norm.num_features, seed=2).square() + 0.1)
            norm.running_var[0] = 1e-6
        if norm.affine:
            norm.weight.copy_(random(norm.num_features, seed=3))
            norm.bias.copy_(random(norm.num_features, seed=4))
    return norm


def norms_of(program):
    return [node for node in program.graph.nodes if node.target is torch.ops.aten.batch_norm.default]


def assert_folds(module, example, expected=1):
    program = capture(module.eval(), (example,))
    assert len(fold_batch_norm(program)) == expected
    assert not norms_of(program)
    torch.testing.assert_close(program(example), module(example), rtol=1e-4, atol=1e-4)
    return program


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("padding", [1, "same"])
def test_a_norm_behind_a_convolution_is_folded_exactly(dimensions, bias, affine, padding):
    layer = CONVOLUTIONS[dimensions](4, 6, 3, padding=padding, bias=bias, groups=2)
    program = assert_folds(nn.Sequential(layer, trained(NORMS[dimensions](6, affine=affine))), random(2, 4, *[5] * dimensions))
    assert set(program.state_dict()) == {"0.weight", "0.bias"}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_behind_a_linear_layer_is_folded_exactly(bias, affine):
    assert_folds(nn.Sequential(nn.Linear(4, 6, bias=bias), trained(nn.BatchNorm1d(6, affine=affine))), random(3, 4))


def test_a_norm_over_positions_of_a_linear_layer_is_not_its_channels_and_stays():
    module = nn.Sequential(nn.Linear(4, 6), trained(nn.BatchNorm1d(5))).eval()
    example = random(3, 5, 4)
    program = capture(module, (example,))
    assert fold_batch_norm(program) == []
    torch.testing.assert_close(program(example), module(example))


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_leaves_the_outputs_of_every_network(name):
    program, example = captured(name)
    expected = program(*example)
    folded = fold_batch_norm(program)
    assert len(folded) == FOLDED.get(name, 0)
    assert set(folded) <= {weight.name for weight in weights(program)}
    outputs = program(*example)
    for one, other in zip(*(value if isinstance(value, tuple) else (value,) for value in (outputs, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert fold_batch_norm(program) == []


def test_folded_layers_still_learn():
    program, example = captured("convolution")
    fold_batch_norm(program)
    program.train()(*example).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in program.parameters())


class Of(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 4, 3, padding=1), trained(nn.BatchNorm2d(4)), trained(nn.BatchNorm2d(4))
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


def read_twice(self, x):
    y = self.conv(x)
    return self.norm(y) + y


def normed_twice(self, x):
    y = self.conv(x)
    return self.norm(y) + self.other(y)


def applied_twice(self, x):
    return self.norm(self.conv(x)) + self.conv(x + 1)


def weight_read_elsewhere(self, x):
    return self.norm(self.conv(x)) + self.conv.weight.sum()


def something_between(self, x):
    return self.norm(F.relu(self.conv(x)))


def statistics_of_the_batch(self, x):
    return F.batch_norm(self.conv(x), None, None, self.norm.weight, self.norm.bias, training=True)


@pytest.mark.parametrize(
    "forward",
    [read_twice, normed_twice, applied_twice, weight_read_elsewhere, something_between, statistics_of_the_batch],
    ids=lambda forward: forward.__name__,
)
def test_what_the_norm_does_not_alone_read_is_left_alone(forward):
    module, example = Of(forward).eval(), random(2, 3, 6, 6)
    program = capture(module, (example,))
    assert fold_batch_norm(program) == []
    assert norms_of(program)
    torch.testing.assert_close(program(example), module(example), rtol=1e-4, atol=1e-5)


def test_a_norm_with_the_statistics_of_the_batch_stays():
    module, example = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval(), random(2, 3, 6, 6)
    program = capture(module, (example,))
    assert fold_batch_norm(program) == []
    torch.testing.assert_close(program(example), module(example))


class BiasBehindTheNorm(nn.Module):
    """At the root, `bias` is another tensor than the convolution's."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(random(4, 3, 3, 3)), nn.Parameter(random(4, seed=5))
        self.norm = trained(nn.BatchNorm2d(4))

    def forward(self, x):
        return self.norm(F.conv2d(x, self.weight)) + self.bias[:, None, None]


def test_folding_does_not_overwrite_another_tensor_called_bias():
    assert_folds(BiasBehindTheNorm(), random(2, 3, 6, 6))


def test_zeros_of_a_mask_stay_zero_and_the_mask_stays():
    module, example = nn.Sequential(nn.Conv2d(3, 4, 3), trained(nn.BatchNorm2d(4))).eval(), random(2, 3, 6, 6)
    program = capture(module, (example,))
    keep = random(4, 3, 3, 3, seed=6) > 0
    represent(program, "0.weight", Mask(keep))
    expected = program(example)
    assert fold_batch_norm(program) == ["0.weight"]
    torch.testing.assert_close(program(example), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(read(program, "0.weight") != 0, keep)
    assert not norms_of(program)
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.add_(1)
    assert torch.equal(read(program, "0.weight") == 0, ~keep)


@pytest.mark.parametrize("form", ["int3", "ternary", "grouped"])
def test_symmetric_grids_per_channel_take_the_factor_and_keep_their_codes(form):
    module, example = nn.Sequential(nn.Conv2d(3, 4, 3), trained(nn.BatchNorm2d(4))).eval(), random(2, 3, 6, 6)
    with torch.no_grad():
        module[1].weight[1] *= -1
    program, scale = capture(module, (example,)), 0.05 + random(4).abs() / 10
    made = {
        "int3": Uniform(scale, bits=3, axis=0, narrow=True),
        "ternary": Codebook(scale, torch.tensor([-1.0, 0.0, 1.0]), axis=0),
        "grouped": Uniform(0.05 + random(4, 3).abs() / 10, bits=3, axis=0, group=consecutive_groups((3, 3, 3), 3), narrow=True),
    }
    represent(program, "0.weight", made[form])
    before, expected = packed(program, "0.weight"), program(example)
    assert fold_batch_norm(program) == ["0.weight"]
    assert not norms_of(program)
    torch.testing.assert_close(program(example), expected, rtol=1e-4, atol=1e-5)
    assert packed(program, "0.weight").bytes == before.bytes
    assert len(read(program, "0.weight").unique()) <= 7 * made[form].scale.numel()


def test_grids_that_are_not_symmetric_keep_the_norm():
    module, example = nn.Sequential(nn.Conv2d(3, 4, 3), trained(nn.BatchNorm2d(4))).eval(), random(2, 3, 6, 6)
    for grid in (Uniform(torch.full((4,), 0.05), bits=4, axis=0), Uniform(torch.full((4,), 0.05), torch.ones(4), 4, axis=0)):
        program = capture(module, (example,))
        represent(program, "0.weight", grid)
        assert fold_batch_norm(program) == []


def test_a_quantized_weight_keeps_its_grid_and_its_norm():
    module, example = nn.Sequential(nn.Conv2d(3, 4, 3), trained(nn.BatchNorm2d(4))).eval(), random(2, 3, 6, 6)
    program = capture(module, (example,))
    represent(program, "0.weight", Uniform(torch.tensor(0.05), torch.tensor(0.0), 4))
    expected = program(example)
    assert fold_batch_norm(program) == []
    assert torch.equal(program(example), expected)


@pytest.mark.parametrize("name", ["residual", "depthwise", "one-dimensional"])
def test_statistics_go_into_gains_and_offsets(name):
    program, example = captured(name)
    program.eval()
    norms = norms_of(program)
    with torch.no_grad():
        for number, norm in enumerate(norms):
            mean, variance = (read(program, str(source.target)) for source in norm.args[3:5])
            mean.copy_(random(*mean.shape, seed=number))
            variance.copy_(random(*variance.shape, seed=number + 50).square() + 0.1)
    before = program(*example)
    found = absorb_statistics(program)
    assert len(found) == 2 * len(norms)
    assert all(not read(program, str(norm.args[3].target)).any() for norm in norms)
    assert all((read(program, str(norm.args[4].target)) == 1).all() for norm in norms)
    torch.testing.assert_close(program(*example), before, rtol=1e-4, atol=1e-4)
    again = program(*example)
    assert absorb_statistics(program) == found
    torch.testing.assert_close(program(*example), again)


def test_statistics_of_a_norm_without_gain_stay():
    program = capture(nn.Sequential(nn.Conv2d(3, 4, 3), trained(nn.BatchNorm2d(4, affine=False))).eval(), (random(2, 3, 8, 8),))
    assert absorb_statistics(program) == []
    assert read(program, "1.running_mean").any()


@pytest.mark.parametrize("bias", [True, False])
def test_a_bias_is_set_whether_there_was_one_or_not(bias):
    module, example = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias)), random(2, 3, 6, 6)
    program = capture(module, (example,))
    layer = next(node for node in program.graph.nodes if node.target is torch.ops.aten.conv2d.default)
    assert (bias_of(program, layer) is not None) == bias
    set_bias(program, layer, torch.arange(4.0))
    program.recompile()
    expected = F.conv2d(example, module[0].weight, torch.arange(4.0))
    torch.testing.assert_close(program(example), expected)
    assert bias_of(program, layer).tolist() == [0, 1, 2, 3]


def test_a_channel_that_does_not_vary_keeps_its_offset_and_no_gain():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0.0, 0.7
        model[1].running_mean.copy_(torch.tensor([0.1, 0.7, -0.2, 0.0]))
        model[1].running_var.copy_(torch.tensor([0.5, 0.0, 2.0, 1e-4]))
        model[1].bias.copy_(torch.tensor([0.3, -0.4, 0.1, 0.0]))
    images = torch.randn(5, 3, 6, 6)
    program = capture(model, (images,))
    expected = program(images)
    gain, offset = absorb_statistics(program)
    torch.testing.assert_close(program(images), expected, rtol=1e-4, atol=1e-5)
    assert (read(program, gain) == 0).tolist() == [False, True, False, False]
    assert read(program, offset)[1].item() == pytest.approx(-0.4)
