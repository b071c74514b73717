from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from laconic.errors import LaconicError, NotApplicableError
from laconic.program import Codebook, capture, clone, packed, packed_bytes, read, weights
from laconic.program.forms import kept, quantizer_of
from laconic.program.represent import edges, representations
from laconic.prune import Filters, Magnitude
from laconic.quantize import Static, Training, WeightOnly
from laconic.quantize.training import weight_grid
from laconic.recipe import apply, not_kept
from laconic.runtimes import onnxruntime
from laconic.train import top1

QUICK = {"epochs": 2, "batch": 64, "learning_rate": 0.003, "autocast": "off"}
INNER = ("left.weight", "right.weight", "down.weight")


def quantizer(program, name):
    return quantizer_of(representations(program, name))


def norms_of(program):
    return [node for node in program.graph.nodes if node.target is torch.ops.aten.batch_norm.default]


@pytest.mark.parametrize("bits", [(1, 1), (2, 2), (1, 8)])
def test_few_bits_keep_the_accuracy_that_rounding_afterwards_loses(program, context, bits):
    widths = {"weight_bits": bits[0], "activation_bits": bits[1]}
    trained = Training(**widths, **QUICK | {"epochs": 6})(clone(program), replace(context, teacher=clone(program)))
    untrained = Training(**widths, **QUICK | {"epochs": 1, "learning_rate": 1e-9})(clone(program), context)
    before, after = top1(untrained, context.splits.test), top1(trained, context.splits.test)
    assert after > 0.88
    assert after > before


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_weights_take_as_many_levels_as_their_bits_have_and_cost_as_much(program, context, bits):
    dense = {name: packed(program, name).bytes for name in INNER}
    Training(weight_bits=bits, activation_bits=4, **QUICK)(program, context)
    for name in INNER:
        form, weight = quantizer(program, name), read(program, name).detach()
        assert form.base == {1: 2, 2: 4}.get(bits, 2**bits)
        assert all(len(channel.unique()) <= (2**bits - (bits > 2)) for channel in weight)
        table = 4 * 2**bits if bits <= 2 else 0
        assert packed(program, name).bytes == dense[name] * bits // 32 + 4 * len(weight) + table
    assert quantizer(program, "stem.weight").bits == quantizer(program, "head.weight").bits == 8


def test_batch_norm_is_trained_and_then_folded_without_moving_the_outputs(program, context):
    """What the network computed at the end of training it computes as the step leaves it."""
    ends = {}

    def fit(self, trained, *arguments, **settings):
        fitted = original(self, trained, *arguments, **settings)
        assert norms_of(trained)
        ends["logits"] = trained(*context.example(32)).detach()
        return fitted

    original = type(context).fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(context), "fit", fit)
        Training(weight_bits=2, activation_bits=3, **QUICK)(program, context)
    assert not norms_of(program)
    difference = (program(*context.example(32)) - ends["logits"]).square().mean() / ends["logits"].square().mean()
    assert difference < 1e-3, "but for a code at a tie"


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_file_computes_what_was_trained_with_integer_kernels(program, context, tmp_path, bits):
    Training(weight_bits=bits, activation_bits=bits, **QUICK)(program, context)
    exported = onnxruntime.export(program, context.example(), tmp_path / "model.onnx")
    assert exported.baked == ()
    assert exported.integer_tensors == 5
    assert exported.kernels["QLinearConv"] + exported.kernels.get("QGemm", 0) == 5
    session = onnxruntime.load(tmp_path / "model.onnx")
    test = context.splits.test
    with torch.no_grad():
        pairs = [(session(inputs.numpy()), program(inputs).numpy()) for inputs, _ in test.batches(64)]
    file, own = (np.concatenate(each) for each in zip(*pairs, strict=True))
    assert (file.argmax(1) == own.argmax(1)).mean() > 0.995
    assert np.square(file - own).sum() < 1e-3 * np.square(own).sum()


def test_biases_are_the_whole_numbers_that_the_file_holds(program, context, tmp_path):
    Training(weight_bits=2, activation_bits=2, **QUICK)(program, context)
    path = onnxruntime.export(program, context.example(), tmp_path / "model.onnx").path
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    whole = [array for array in held.values() if array.dtype == np.int32 and array.ndim == 1]
    assert len(whole) == 5
    for name in INNER:
        grid, bias = quantizer(program, name).whole(), read(program, name.replace("weight", "bias"))
        reader = next(weight.readers[0] for weight in weights(program) if weight.name == name)
        codes = bias / (edges(program)[reader.args[0]].step * grid.step / 16)
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=0.01)
        assert any(len(array) == len(codes) and np.abs(array - codes.detach().numpy()).max() < 0.5 for array in whole)


def test_steps_of_weights_and_activations_are_learned(program, context):
    before = clone(program)
    Training(weight_bits=4, activation_bits=4, **QUICK | {"epochs": 1, "learning_rate": 1e-9})(before, context)
    Training(weight_bits=4, activation_bits=4, **QUICK)(program, context)
    for node, form in edges(program).items():
        other = next(each for name, each in edges(before).items() if name.name == node.name)
        assert not torch.equal(form.step, other.step)
    assert not torch.equal(quantizer(program, "down.weight").step, quantizer(before, "down.weight").step)


def test_it_goes_on_from_static_quantization_at_its_widths(program, context):
    Static(weight_bits=3, activation_bits=3)(program, context)
    start = top1(program, context.splits.validation)
    Training(**QUICK)(program, context)
    assert {quantizer(program, name).bits for name in INNER} == {3}
    assert top1(program, context.splits.validation) >= start


def test_widths_beside_static_quantization_are_refused_before_training(program, context):
    Static()(program, context)
    with pytest.raises(NotApplicableError, match="quantized already: leave weight_bits and activation_bits out"):
        Training(weight_bits=4, **QUICK)(program, context)


def test_weights_that_are_quantized_alone_are_refused(program, context):
    WeightOnly()(program, context)
    with pytest.raises(NotApplicableError, match="quantized already"):
        Training(**QUICK)(program, context)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_pruned_weights_stay_zero_in_the_network_and_in_the_file(program, context, tmp_path, bits):
    Magnitude(sparsity=0.6)(program, context)
    zeros = {weight.name: weight.value == 0 for weight in weights(program)}
    Training(weight_bits=bits, activation_bits=4, **QUICK)(program, context)
    for name, zero in zeros.items():
        assert not read(program, name)[zero].any()
        assert torch.equal(kept(representations(program, name)), ~zero)
    onnxruntime.export(program, context.example(), tmp_path / "model.onnx")
    counts = onnxruntime.count(tmp_path / "model.onnx")
    assert counts.nonzero_parameters < 0.55 * counts.parameters


@pytest.mark.parametrize("step", [Static(weight_bits=4), Training(weight_bits=4, **QUICK)], ids=["Static", "Training"])
def test_cut_filters_and_fewer_bits_both_make_the_file_smaller(program, context, tmp_path, step):
    recipes = {"cut": [Filters(ratio=0.4)], "quantized": [step], "both": [Filters(ratio=0.4), step]}
    files, bytes_ = {}, {}
    for name, steps in recipes.items():
        made = apply(clone(program), steps, context).program
        bytes_[name] = packed_bytes(made)
        files[name] = onnxruntime.export(made, context.example(), tmp_path / f"{name}.onnx").path.stat().st_size
    assert files["both"] < min(files["cut"], files["quantized"])
    assert bytes_["both"] < min(bytes_["cut"], bytes_["quantized"])


def test_named_layers_stay_as_wide_as_the_ends(program, context):
    Training(weight_bits=2, activation_bits=2, wide=("left",), **QUICK | {"epochs": 1})(program, context)
    assert quantizer(program, "left.weight").bits == 8
    assert quantizer(program, "right.weight").base == 4


def test_without_a_teacher_the_labels_teach(program, context):
    Training(weight_bits=2, activation_bits=2, **QUICK | {"epochs": 4})(program, replace(context, teacher=None))
    assert top1(program, context.splits.test) > 0.85


def test_the_float_network_is_the_teacher(program, context, make_context):
    """With labels that are all wrong, its answers alone can teach."""
    train = context.splits.train
    wrong = replace(train, labels=(train.labels + 1) % 10)
    misled = make_context(splits=replace(context.splits, train=wrong))
    made = apply(program, [Training(weight_bits=2, activation_bits=2, alpha=1.0, **QUICK | {"epochs": 4})], misled).program
    assert top1(made, context.splits.test) > 0.85


def test_what_cannot_be_trained_is_found_before_work(untrained_context, program):
    with pytest.raises(LaconicError, match="no training split"):
        Training(**QUICK)(program, untrained_context)


def test_what_a_runtime_must_execute_is_known_before_any_work():
    assert Training().forms == {"int4", "uint4", "int8", "uint8"}
    assert Training(weight_bits=1, activation_bits=1).forms == {"int2", "uint1", "int8", "uint8"}
    assert Training(weight_bits=2, activation_bits=2).forms == {"int3", "uint2", "int8", "uint8"}
    assert not_kept([Training(weight_bits=1, activation_bits=1)], onnxruntime.KEEPS) == []


@pytest.mark.parametrize("bits", range(1, 9))
def test_grids_of_weights_are_symmetric_for_batch_norm_to_be_folded(program, bits):
    weight = next(each for each in weights(program) if each.name == "left.weight")
    assert weight_grid(weight, bits).is_symmetric


def test_levels_of_two_bits_are_even_and_fit_the_weights(program):
    weight = next(each for each in weights(program) if each.name == "left.weight")
    form = weight_grid(weight, 2)
    assert form.levels.tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    error = (form(weight.value) - weight.value).square().mean()
    assert error < (weight_grid(weight, 1)(weight.value) - weight.value).square().mean()


def test_a_sign_has_the_gradient_of_its_weight_and_its_scale():
    """DoReFa-Net: straight through to the weight; to the scale, the sum of the signs' gradients (times LSQ's share)."""
    form = Codebook(torch.tensor([0.5]), torch.tensor([-1.0, 1.0]), "binary", axis=0)
    weight, slope = torch.tensor([[0.1, -2.0, 0.7]], requires_grad=True), torch.tensor([[1.0, 2.0, 4.0]])
    (form(weight) * slope).sum().backward()
    assert torch.equal(weight.grad, slope)
    assert float(form.scale.grad) == pytest.approx(float((slope * torch.tensor([1.0, -1.0, 1.0])).sum()) * 3**-0.5)


REFUSED = [{"weight_bits": 0}, {"activation_bits": 9}, {"ends_bits": 16}, {"alpha": 1.5}, {"temperature": 0}, {"bits": 4}]


@pytest.mark.parametrize("settings", REFUSED)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Training(**settings)


def test_a_network_without_layers_of_integer_kernels_says_so(context):
    model = nn.Sequential(nn.ConvTranspose2d(1, 10, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(NotApplicableError, match="found no convolution or linear layer"):
        Training(**QUICK)(capture(model, context.example()), context)
