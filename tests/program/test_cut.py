"""Groups and cut: what is removed computes what zeroing it would, on every kind of network."""

import numpy as np
import pytest
import torch
from torch import nn

from laconic.errors import LaconicError
from laconic.measure import macs
from laconic.program import Mask, capture, clone, load, read, represent, save, weights, write_back
from laconic.program.cut import cut
from laconic.program.groups import channel_groups, find
from laconic.program.represent import representations
from laconic.program.zero import zero
from networks import NETWORKS, captured, quantize

every_network = pytest.mark.parametrize("name", NETWORKS)


def halves(groups):
    return {group.name: list(range(0, group.channels, 2)) for group in groups}


def outputs(program, example):
    with torch.no_grad():
        found = program(*example)
    return list(found) if isinstance(found, tuple) else [found]


@every_network
def test_cutting_exact_groups_computes_what_zeroing_them_would(name):
    program, example = captured(name)
    keep = halves(group for group in channel_groups(program) if group.exact)
    for ours, theirs in zip(outputs(cut(clone(program), keep), example), outputs(zero(clone(program), keep), example), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@every_network
def test_a_network_with_half_of_every_group_runs_trains_and_is_saved(name, tmp_path):
    program, example = captured(name)
    shapes = [output.shape for output in outputs(program, example)]
    small = cut(clone(program), halves(channel_groups(program)))
    assert [output.shape for output in outputs(small, example)] == shapes
    small.train()
    found = small(*example)
    sum(output.square().mean() for output in (found if isinstance(found, tuple) else (found,))).backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in small.parameters())
    small.eval()
    save(small, tmp_path / "small.safetensors")
    for ours, theirs in zip(outputs(load(tmp_path / "small.safetensors"), example), outputs(small, example), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["convolution", "residual", "concat", "depthwise"])
def test_half_the_channels_are_about_a_quarter_of_the_work(name):
    program, example = captured(name)
    small = cut(clone(program), halves(channel_groups(program)))
    assert macs(small, example) < 0.6 * macs(program, example)


@pytest.mark.parametrize("name", ["convolution", "residual", "concat", "attention"])
def test_cutting_twice_is_cutting_once(name):
    program, _ = captured(name)
    for group in channel_groups(program):
        if group.channels < 4:
            continue
        all_but_last, all_but_two = list(range(group.channels - 1)), list(range(group.channels - 2))
        once = cut(clone(program), {group.name: all_but_two})
        twice = cut(clone(program), {group.name: all_but_last})
        [again] = [
            left for left in channel_groups(twice) if left.channels == group.channels - 1 and left.name.startswith(group.slots[0].tensor)
        ]
        cut(twice, {again.name: all_but_two})
        for slot in group.slots:
            assert torch.equal(read(twice, slot.tensor), read(once, slot.tensor))


def test_masks_quantizers_and_their_scales_are_cut_with_the_weights():
    program, example = captured("residual")
    for weight in weights(program):
        represent(program, weight.name, Mask(weight.value.abs() > 0.05))
    quantized = quantize(program, example)
    keep = halves(group for group in channel_groups(quantized) if group.exact)
    small = cut(clone(quantized), keep)
    [ours], [theirs] = outputs(small, example), outputs(quantized, example)
    assert ours.shape == theirs.shape
    assert torch.isfinite(ours).all()
    for weight in weights(small):
        mask, grid = representations(small, weight.name)
        assert mask.keep.shape == weight.value.shape
        assert len(grid.scale) == weight.value.shape[weight.axis]
        assert not weight.value[~mask.keep].any()


def test_residual_channels_are_one_group_and_the_ends_are_frozen():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner, self.outer = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            x = self.stem(x)
            return self.head((x + self.outer(self.inner(x).relu())).mean((2, 3)))

    found = find(capture(Residual(), (torch.randn(2, 3, 8, 8),)))
    joint, inner = found.groups
    assert {(slot.tensor, slot.axis) for slot in joint.slots} == {
        *(("stem.weight", 0), ("stem.bias", 0), ("outer.weight", 0), ("outer.bias", 0), ("inner.weight", 1), ("head.weight", 1)),
    }
    assert {(slot.tensor, slot.axis) for slot in inner.slots} == {("inner.weight", 0), ("inner.bias", 0), ("outer.weight", 1)}
    assert ("head.weight", 0, 5, "the network's output") in {(z.tensor, z.axis, z.size, z.reason) for z in found.frozen}
    assert any(z.tensor == "stem.weight" and z.axis == 1 and "input" in z.reason for z in found.frozen)


def test_heads_and_their_dimensions_are_groups_of_their_own():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

        def forward(self, x):
            q, k, v = self.qkv(x).view(x.shape[0], -1, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    program = capture(Attention(), (torch.randn(2, 7, 16),))
    groups = channel_groups(program)
    [heads] = [group for group in groups if group.heads]
    assert heads.channels == 4
    row = next(slot for slot in heads.slots if slot.tensor == "qkv.weight")
    assert np.array_equal(row.channel, np.tile(np.repeat(np.arange(4), 4), 3))
    small = cut(clone(program), {heads.name: [0, 3]})
    assert read(small, "qkv.weight").shape == (24, 16)
    assert read(small, "out.weight").shape == (16, 8)


def test_an_operation_without_a_rule_freezes_what_it_touches_and_says_where():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.second(torch.sort(self.first(x), dim=-1)[0])

    found = find(capture(Odd(), (torch.randn(2, 6),)))
    assert not found.groups
    assert any("aten.sort" in z.reason and "test_cut.py" in z.reason for z in found.frozen if z.tensor == "first.weight")


def test_a_cut_that_cannot_be_is_refused_before_anything_is_cut():
    program, _ = captured("convolution")
    group = channel_groups(program)[0]
    before = {name: tensor.clone() for name, tensor in program.state_dict().items()}
    for keep, message in (
        ({"nothing": [0]}, "no group"),
        ({group.name: []}, "nothing would be left"),
        ({group.name: [10**6]}, "does not exist"),
    ):
        with pytest.raises(LaconicError, match=message):
            cut(program, keep)
    assert all(torch.equal(tensor, before[name]) for name, tensor in program.state_dict().items())


def test_a_cut_network_goes_back_into_the_users_class():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 3)).eval()
    example = (torch.randn(2, 3, 8, 8),)
    program = capture(module, example)
    cut(program, halves(channel_groups(program)))
    back = write_back(program, module)
    assert back[0].weight.shape == (4, 3, 3, 3)
    torch.testing.assert_close(back(*example), program(*example))


def test_a_cut_network_trains_while_an_older_graph_lives():
    program = capture(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (torch.randn(2, 6),))
    older, weight = program(torch.randn(2, 6)), program.get_parameter("0.weight")
    cut(program, {"0.weight[0]": range(2)})
    program(torch.randn(4, 6)).sum().backward()
    assert program.get_parameter("0.weight") is weight, "an optimizer that holds it goes on holding it"
    assert weight.grad.shape == (2, 6)
    assert weight.dtype == torch.float32
    del older
