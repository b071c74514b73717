from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.errors import LaconicError
from laconic.program import capture, clone, fold_batch_norm, read, weights
from laconic.program.observe import observe
from laconic.program.represent import edges
from laconic.quantize import Static
from laconic.quantize.data_free import norm_spreads, value_spreads
from laconic.runtimes import onnxruntime
from laconic.train import top1


@dataclass(frozen=True)
class Untouchable(Split):
    """A split of which no example may be looked at."""

    def arrays(self, indices):
        raise AssertionError("an example was looked at")


@pytest.fixture
def blind(context):
    """The context of the digits, whose examples are out of reach."""
    part = context.splits.calibration
    hidden = Untouchable(part.inputs, part.labels, part.mean, part.std)
    return replace(context, splits=Splits(hidden, hidden, hidden, hidden))


def edge_of(program, name):
    return next(form for node, form in edges(program).items() if node.args[0].name == name)


def limits_of(form):
    scale, zero_point = form.scale.item(), form.zero_point.item()
    return -zero_point * scale, (2**form.bits - 1 - zero_point) * scale


def normalised(model, inputs, passes=200):
    """Let the batch norms of a model take the statistics of its inputs, with gains and offsets of their own."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = 0.5 + torch.rand(module.num_features, generator=generator)
            module.bias.data = torch.randn(module.num_features, generator=generator)
    model.train()
    with torch.no_grad():
        for _ in range(passes):
            model(inputs)
    return model.eval()


class Branches(nn.Module):
    """Batch norms before and behind a sum, a ReLU6, a pooling, a concatenation and two layers without batch norm."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.body, self.body_norm = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(8)
        self.plain, self.fc = nn.Conv2d(16, 12, 1), nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu6(self.stem_norm(self.stem(x)))
        y = F.relu(x + self.body_norm(self.body(x)))
        y = F.relu(self.plain(torch.cat([F.max_pool2d(x, 2), F.max_pool2d(y, 2)], 1)))
        return self.fc(F.adaptive_avg_pool2d(y, 1).flatten(1))


@pytest.fixture
def branches():
    torch.manual_seed(0)
    inputs = torch.randn(256, 3, 8, 8)
    return capture(normalised(Branches(), inputs), (inputs[:2],)), inputs


def context_of(inputs):
    part = Split(np.asarray(inputs, np.float32), np.zeros(len(inputs), np.int64))
    return Context(Splits(part, part, part, part))


def seen(program, inputs):
    """What every node of a program computes."""
    found = {}
    observe(program, [(inputs,)], list(program.graph.nodes), lambda node, value: found.update({node: value}))
    return found


def test_means_and_deviations_are_those_that_the_values_have(branches):
    program, inputs = branches
    norms = norm_spreads(program)
    fold_batch_norm(program)
    spreads, values = value_spreads(program, norms), seen(program, inputs)
    names = {node.name for node in spreads}
    assert {"conv2d", "relu6", "conv2d_1", "add", "relu", "max_pool2d", "cat", "conv2d_2", "flatten", "linear"} <= names
    for node in [node for node in spreads if node.name in ("conv2d", "relu6", "conv2d_1")]:
        flat = values[node].transpose(0, 1).flatten(1)
        torch.testing.assert_close(spreads[node].mean, flat.mean(1), rtol=0, atol=0.1)
        torch.testing.assert_close(spreads[node].variance.sqrt(), flat.std(1), rtol=0.15, atol=0.05)
    for node in [node for node in spreads if node.name in ("add", "relu")]:
        flat = values[node].transpose(0, 1).flatten(1)
        torch.testing.assert_close(spreads[node].mean, flat.mean(1), rtol=0.15, atol=0.25)


def test_ranges_are_six_gammas_around_beta_clipped_by_the_activation(branches):
    program, _ = branches
    gain, offset = read(program, "stem_norm.weight").detach(), read(program, "stem_norm.bias").detach()
    body = read(program, "body_norm.weight").detach(), read(program, "body_norm.bias").detach()
    Static(calibration="statistics", input_range=(-4, 4))(program, context_of(np.zeros((2, 3, 8, 8))))
    assert limits_of(edge_of(program, "relu6")) == pytest.approx((0, min(6.0, float((offset + 6 * gain).max()))), rel=1e-5)
    low, high = limits_of(edge_of(program, "conv2d_1"))
    step = (high - low) / 255
    assert low == pytest.approx(float((body[1] - 6 * body[0]).min()), abs=step)
    assert high == pytest.approx(float((body[1] + 6 * body[0]).max()), abs=step)
    assert limits_of(edge_of(program, "x")) == pytest.approx((-4, 4), abs=8 / 255)


@pytest.mark.parametrize("ranges", ["percentile", "mean-square"])
def test_narrower_ranges_are_chosen_on_the_assumed_distribution(branches, ranges):
    program, _ = branches
    context = context_of(np.zeros((2, 3, 8, 8)))
    made = [Static(calibration="statistics", input_range=(-4, 4), ranges=each)(clone(program), context) for each in ("min-max", ranges)]
    wide, narrow = (limits_of(edge_of(each, "conv2d_1")) for each in made)
    assert wide[0] < narrow[0] < 0 < narrow[1] < wide[1]


def test_biases_take_back_what_rounding_does_to_the_means(branches):
    program, inputs = branches
    context = context_of(np.zeros((2, 3, 8, 8)))
    wanted = program(inputs).mean(0)
    settings = {"calibration": "statistics", "input_range": (-4, 4), "weight_bits": 3, "ends_bits": 3}
    made = [Static(**settings, bias_correction=correction)(clone(program), context) for correction in (False, True)]
    shifts = [(each(inputs).mean(0) - wanted).square().mean().item() for each in made]
    assert shifts[1] < 0.5 * shifts[0]


def test_a_correction_is_the_rounding_error_times_the_mean_input(branches):
    program, _ = branches
    folded = clone(program)
    norms = norm_spreads(folded)
    fold_batch_norm(folded)
    means = {node.name: spread.mean for node, spread in value_spreads(folded, norms).items()}
    context, settings = context_of(np.zeros((2, 3, 8, 8))), {"calibration": "statistics", "input_range": (-4, 4), "weight_bits": 3}
    plain, corrected = (Static(**settings, bias_correction=each)(clone(program), context) for each in (False, True))
    error = read(plain, "plain.weight").detach() - read(folded, "plain.weight").detach()
    expected = read(plain, "plain.bias") - (error[:, :, 0, 0] * means["cat"]).sum(1)
    torch.testing.assert_close(read(corrected, "plain.bias"), expected, rtol=1e-4, atol=1e-5)


def test_a_trained_network_keeps_its_accuracy_and_no_example_is_looked_at(program, blind, context):
    before = top1(program, context.splits.test)
    Static(calibration="statistics")(program, blind)
    assert abs(top1(program, context.splits.test) - before) <= 0.02
    assert {weight.name for weight in weights(program)} == {f"{layer}.weight" for layer in ("stem", "left", "right", "down", "head")}
    assert any("corrected from batch norm" in note for note in blind.notes)


def test_the_file_is_as_integer_as_with_calibration(program, blind, context, tmp_path):
    example = context.example()
    file = onnxruntime.export(Static(calibration="statistics")(program, blind), example, tmp_path / "file.onnx")
    assert file.kernels["QLinearConv"] == 4
    assert file.integer_share > 0.7


def test_the_range_of_inputs_is_that_of_stored_bytes(program, blind):
    Static(calibration="statistics")(program, blind)
    [mean], [std] = blind.splits.calibration.mean, blind.splits.calibration.std
    step = 255 / std / 255
    assert limits_of(edge_of(program, "x")) == pytest.approx((-mean / std, (255 - mean) / std), abs=step)


def test_inputs_of_unknown_range_are_an_error_that_says_what_to_give(branches):
    program, inputs = branches
    with pytest.raises(LaconicError, match="input_range"):
        Static(calibration="statistics")(program, context_of(inputs))


def test_a_network_without_batch_norm_has_no_statistics(branches):
    program, inputs = branches
    fold_batch_norm(program)
    before = clone(program)
    with pytest.raises(LaconicError, match=r"no batch norm says .* aten.relu6.default .*calibration: inputs"):
        Static(calibration="statistics", input_range=(-4, 4))(program, context_of(inputs))
    assert all(torch.equal(one, other) for one, other in zip(program.parameters(), before.parameters(), strict=True))
    assert not edges(program)


def test_a_batch_norm_that_makes_zeros_is_an_error(branches):
    program, inputs = branches
    with torch.no_grad():
        read(program, "stem_norm.weight").zero_()
        read(program, "stem_norm.bias").fill_(-1.0)
    with pytest.raises(LaconicError, match=r"relu6.*are all zero"):
        Static(calibration="statistics", input_range=(-4, 4))(program, context_of(inputs))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rounding": "layer"}, "rounding: layer needs calibration inputs"),
        ({"equalization": True}, "equalization needs calibration inputs"),
        ({"smoothing": 0.5, "tuning_epochs": 1}, "smoothing and tuning_epochs needs calibration inputs"),
        ({"input_range": (1, 1)}, "lowest and the highest"),
    ],
)
def test_what_needs_inputs_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Static(calibration="statistics", **settings)
