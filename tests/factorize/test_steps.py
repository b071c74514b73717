from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from laconic.data import Split
from laconic.errors import LaconicError, NotApplicableError, UnreachableError
from laconic.factorize import CP, SVD, Mixed, Tucker
from laconic.measure import macs
from laconic.program import capture, clone, load, packed_bytes, save
from laconic.prune import Filters, Magnitude
from laconic.quantize import Static
from laconic.recipe import apply, parse
from laconic.runtimes import onnxruntime
from laconic.train import Training, top1

QUICK = Training(epochs=2, batch=32, learning_rate=0.01, autocast="off")
STEPS = [
    SVD(macs=0.7),
    SVD(split="spatial", macs=0.7),
    Tucker(macs=0.75),
    CP(macs=0.75),
    Mixed(macs=0.6),
    Mixed(kinds=("svd", "cp"), bytes=0.6, training=QUICK),
]


def notes_of(step, program, context):
    context = replace(context, notes=[])
    return step(program, context), " ".join(context.notes)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{type(step).__name__} {getattr(step, 'split', '')}{getattr(step, 'kinds', '')}")
def test_what_comes_out_costs_what_was_asked_for_and_is_kept_in_every_file(step, program, make_context, tmp_path):
    context = make_context(teacher=clone(program))
    whole = clone(program)
    made, notes = notes_of(step, program, context)
    share = (
        macs(made, context.example()) / macs(whole, context.example()) if step.bytes is None else packed_bytes(made) / packed_bytes(whole)
    )
    assert share <= (step.macs or step.bytes) + 1e-9
    assert "taken apart" in notes
    assert "above the least possible" in notes
    assert top1(made, context.splits.test) > top1(whole, context.splits.test) - 0.1
    save(made, tmp_path / "program.safetensors")
    onnxruntime.export(made, context.example(), tmp_path / "model.onnx")
    inputs = context.splits.test.arrays(slice(0, 20))
    with torch.no_grad():
        ours, again = (each(torch.from_numpy(inputs)) for each in (made, load(tmp_path / "program.safetensors")))
    assert torch.equal(ours, again)
    np.testing.assert_allclose(onnxruntime.load(tmp_path / "model.onnx", 1)(inputs), ours.numpy(), rtol=1e-3, atol=1e-3)


def test_outputs_count_and_not_weights_alone(program, context):
    errors = {}
    with torch.no_grad():
        wanted = program(*context.example(64))
        for whiten in (True, False):
            made = SVD(macs=0.6, whiten=whiten)(clone(program), context)
            errors[whiten] = float((made(*context.example(64)) - wanted).square().mean())
    assert errors[True] < 0.6 * errors[False]


def test_a_rank_may_be_given_and_is_checked(program, context):
    made = SVD(rank=3, include=("left", "head"))(clone(program), context)
    names = dict(made.named_parameters())
    assert names["left.down.weight"].shape == (3, 8, 3, 3)
    assert names["left.up.weight"].shape == (8, 3, 1, 1)
    assert names["head.down.weight"].shape == (3, 256)
    assert "right.weight" in names
    tucker = dict(Tucker(rank=3, include="down")(clone(program), context).named_parameters())
    assert [tucker[f"down.{part}.weight"].shape[:2] for part in ("down", "core", "up")] == [(3, 8), (3, 3), (16, 3)]
    with pytest.raises(LaconicError, match=r"rank 11 is above the full rank of left, 8"):
        SVD(rank=11)(clone(program), context)
    for wrong in (0, -1, 2.5, "three"):
        with pytest.raises(LaconicError, match="rank"):
            parse([{"factorize.SVD": {"rank": wrong}}])
    with pytest.raises(LaconicError, match="one of rank, macs, bytes and latency"):
        parse([{"factorize.SVD": {"rank": 2, "macs": 0.5}}])


def test_variational_ranks_are_those_of_what_stands_out(program, context):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = program.get_parameter("down.weight")
        low = torch.randn(16, 2, generator=generator) @ torch.randn(2, 72, generator=generator)
        weight.copy_((low + 0.01 * torch.randn(16, 72, generator=generator)).reshape(weight.shape))
    made = SVD(rank="variational", include="down")(program, context)
    assert made.get_parameter("down.down.weight").shape[0] == 2


def test_what_cannot_be_taken_apart_is_said(program, context):
    with pytest.raises(UnreachableError, match=r"macs=0.001 cannot be reached: 0\.\d+ is left"):
        Mixed(macs=0.001)(clone(program), context)
    sparse = Magnitude(sparsity=0.5)(clone(program), context)
    with pytest.raises(NotApplicableError, match="nothing to take apart"):
        SVD()(sparse, context)
    with pytest.raises(LaconicError, match="unknown layer pattern"):
        SVD(include="nowhere*")(clone(program), context)
    grouped = capture(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten()).eval(), context.example())
    with pytest.raises(NotApplicableError, match="without groups"):
        SVD()(grouped, context)
    with pytest.raises(NotApplicableError, match="no layer becomes smaller"):
        Tucker()(capture(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), context.example()), context)


def test_one_image_and_zeros_are_survived(program, context):
    one = context.splits.calibration.take(slice(0, 1))
    alone = replace(context, splits=replace(context.splits, calibration=one), notes=[])
    made, notes = notes_of(SVD(macs=0.8), clone(program), alone)
    assert torch.isfinite(made(*context.example())).all()
    assert "few examples" in notes
    with torch.no_grad():
        program.get_parameter("left.weight").zero_()
    for step in (Mixed(macs=0.7), CP(rank=2, include="left")):
        made = step(clone(program), context)
        assert torch.isfinite(made(*context.example())).all()
    spoilt = Split(np.full_like(one.inputs, np.nan, dtype=np.float32), one.labels)
    with pytest.raises(LaconicError, match="NaN"):
        SVD()(clone(program), replace(context, splits=replace(context.splits, calibration=spoilt)))


def test_a_latency_is_measured_and_what_is_slower_in_parts_is_left_whole(program, context):
    asked = []

    def seconds(made):
        """A runtime in which a layer takes as long as it has output channels, but `left` longer in parts."""
        asked.append(made)
        spent = {}
        for name, parameter in made.named_parameters():
            if name.endswith(".weight") and parameter.ndim > 1:
                slow = 3.0 if name.startswith("left.") and name.count(".") > 1 else 1.0
                spent[name.removesuffix(".weight")] = 1e-6 * parameter.numel() * slow
        return spent

    context = replace(context, layer_seconds=seconds)
    made, _ = notes_of(SVD(latency=0.7), clone(program), context)
    assert sum(seconds(made).values()) <= 0.7 * sum(seconds(program).values()) * 1.001
    assert "left.weight" in dict(made.named_parameters())
    made, notes = notes_of(SVD(macs=0.75), clone(program), context)
    assert "left.weight" in dict(made.named_parameters())
    assert "slower in parts, so left whole: left" in notes
    with pytest.raises(UnreachableError, match=r"1 layers stay whole because they would be slower in parts: left; faster: false"):
        SVD(macs=0.6, exclude="head")(clone(program), context)
    assert "left.down.weight" in dict(SVD(macs=0.6, exclude="head", faster=False)(clone(program), context).named_parameters())


def test_filters_then_low_rank_then_integers_keep_each_gain(program, context, tmp_path):
    steps = [Filters(ratio=0.25), Mixed(macs=0.75), Static()]
    sizes, costs, current = [], [], clone(program)
    for step in steps:
        current = apply(current, [step], replace(context, teacher=clone(program), notes=[])).program
        sizes.append(packed_bytes(current))
        costs.append(macs(current, context.example()))
    assert sizes == sorted(sizes, reverse=True)
    assert costs[1] < costs[0] < macs(program, context.example())
    assert costs[2] == costs[1]
    onnxruntime.export(current, context.example(), tmp_path / "model.onnx")
    inputs = context.splits.test.arrays(slice(0, 100))
    answers = onnxruntime.load(tmp_path / "model.onnx", 1)(inputs).argmax(1)
    assert (answers == context.splits.test.labels[:100]).mean() > 0.6


def test_parts_can_be_cut_and_taken_apart_again(program, context):
    made = SVD(rank=6, include=("left", "right"))(program, context)
    cut = Filters(ratio=0.5, include=("left.down",))(made, context)
    assert cut.get_parameter("left.down.weight").shape[0] < 6
    again = SVD(rank=2, include=("right.down",))(cut, context)
    assert again.get_parameter("right.down.down.weight").shape[0] == 2
    assert torch.isfinite(again(*context.example())).all()


class Listener(nn.Module):
    """A recurrent network over the rows of a picture."""

    def __init__(self, kind, **more):
        super().__init__()
        self.recurrent, self.head = kind(8, 12, batch_first=True, **more), nn.Linear(12 * (1 + more.get("bidirectional", False)), 10)

    def forward(self, x):
        return self.head(self.recurrent(x.squeeze(1))[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # torch.export's, of recurrent layers
def test_the_input_of_a_recurrent_network_is_narrowed(kind, layers, context, tmp_path):
    torch.manual_seed(0)
    whole = capture(Listener(kind, num_layers=layers).eval(), context.example())
    inputs = context.example(20)[0]
    with torch.no_grad():
        wanted = whole(inputs)
        same = SVD(rank=8, include="recurrent.weight_ih_l0")(clone(whole), context)
        torch.testing.assert_close(same(inputs), wanted, rtol=1e-4, atol=1e-5)
    made = SVD(rank=3, include="recurrent.weight_ih_l0")(clone(whole), context)
    names = {name: tuple(parameter.shape) for name, parameter in made.named_parameters()}
    assert names["recurrent.weight_ih_l0_parts.down.weight"] == (3, 8)
    assert names["recurrent.weight_ih_l0_parts.up.weight"][1] == 3
    assert "recurrent.weight_hh_l0" in names
    assert "recurrent.weight_ih_l0" not in names
    assert macs(made, context.example()) < macs(whole, context.example())
    save(made, tmp_path / "program.safetensors")
    onnxruntime.export(made, context.example(), tmp_path / "model.onnx")
    with torch.no_grad():
        ours = made(inputs)
        assert torch.equal(load(tmp_path / "program.safetensors")(inputs), ours)
        assert 1e-6 < float((ours - wanted).square().mean() / wanted.square().mean()) < 0.3
    np.testing.assert_allclose(onnxruntime.load(tmp_path / "model.onnx", 1)(inputs.numpy()), ours.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
def test_a_recurrent_network_that_goes_both_ways_is_left_whole(context):
    program = capture(Listener(nn.LSTM, bidirectional=True).eval(), context.example())
    with pytest.raises(NotApplicableError, match="one-way recurrent network"):
        SVD(rank=3, include="recurrent*")(program, context)
