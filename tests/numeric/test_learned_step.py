import math

import numpy as np
import pytest
import torch

from laconic.numeric import learned_step_loops as loops
from laconic.numeric.learned_step import learned_step, nearest_multiple


def plainly(x, step, low, high):
    """The same, from operations whose gradients torch knows: straight through the rounding, not through the clipping."""
    ratio = x / step
    clipped = torch.minimum(torch.maximum(ratio, low), high)
    return (clipped + (torch.round(clipped) - clipped).detach()) * step


CASES = {
    "one step": (torch.tensor(0.3), torch.tensor(0.0), torch.tensor(7.0)),
    "signed": (torch.tensor(0.2), torch.tensor(-3.0), torch.tensor(3.0)),
    "a step per channel": (torch.tensor([0.1, 0.3, 0.7, 1.5]).reshape(4, 1, 1), torch.full((4, 1, 1), -4.0), torch.full((4, 1, 1), 3.0)),
    "bounds per channel": (torch.tensor(0.5), torch.tensor([-2.0, 0.0, -1.0, -7.0]).reshape(4, 1, 1), torch.tensor(5.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_the_parts(case):
    step, low, high = CASES[case]
    x, weights = torch.randn(5, 4, 6, 6) * 2, torch.randn(5, 4, 6, 6)
    found = []
    for function in (learned_step, plainly):
        leaves = [x.clone().requires_grad_(), step.clone().requires_grad_()]
        result = function(leaves[0], leaves[1], low, high)
        (result * weights).sum().backward()
        found.append([result, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_without_gradients_the_value_is_the_same():
    x, step, bounds = torch.randn(50), torch.tensor(0.1), (torch.tensor(-3.0), torch.tensor(3.0))
    with_gradient = learned_step(x.clone().requires_grad_(), step, *bounds)
    assert torch.equal(learned_step(x, step, *bounds), with_gradient)


def test_the_gradient_passes_on_the_very_bounds():
    x = torch.tensor([0.0, 3.0, -0.001, 3.001], requires_grad=True)
    learned_step(x, torch.tensor(1.0), torch.tensor(0.0), torch.tensor(3.0)).sum().backward()
    assert x.grad.tolist() == [1, 1, 0, 0]


def test_eq_3_of_the_source_at_three_points():
    """Inside: round(v/s) - v/s; below and above: the bounds."""
    for value, slope in ((0.22, 2 - 2.2), (-9.0, -4.0), (9.0, 3.0)):
        step = torch.tensor(0.1, requires_grad=True)
        learned_step(torch.tensor([value]), step, torch.tensor(-4.0), torch.tensor(3.0)).sum().backward()
        assert float(step.grad) == pytest.approx(slope, abs=1e-5)


def test_low_precision_inputs_are_rounded_in_full_precision_and_keep_their_type():
    x = torch.tensor([0.1, 0.2, 0.3], dtype=torch.bfloat16, requires_grad=True)
    result = learned_step(x, torch.tensor(0.07), torch.tensor(0.0), torch.tensor(15.0))
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, (torch.round(x.float() / 0.07) * 0.07).bfloat16())
    result.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_ties_go_to_even_numbers():
    assert nearest_multiple(torch.tensor([0.5, 1.5, 2.5, 9.0]), torch.tensor(0.0), torch.tensor(3.0)).tolist() == [0, 2, 2, 3]


def test_zeros_are_positive():
    x, bounds = torch.tensor([-0.04, 0.04]), (torch.tensor(-3.0), torch.tensor(3.0))
    for each in (x, x.clone().requires_grad_()):
        assert not torch.signbit(learned_step(each, torch.tensor(0.1), *bounds)).any()


LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
ONE_STEP = (torch.tensor(0.3), torch.tensor(0.0), torch.tensor(7.0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loops_in_one_pass_give_what_operations_give(dtype, layout, monkeypatch):
    """Where numba is installed they run on large tensors; the gradient comes in another layout, and the last lanes are not full."""
    x = (torch.randn(7, 16, 23, 31) * 2).to(dtype).contiguous(memory_format=LAYOUTS[layout])
    weights = torch.randn(7, 16, 23, 31).to(dtype)
    found = []
    for compiled in (True, False):
        monkeypatch.setattr("laconic.numeric.learned_step._WORTH_A_CALL", 1 if compiled else math.inf)
        leaves = [x.clone().requires_grad_(), ONE_STEP[0].clone().requires_grad_()]
        result = learned_step(leaves[0], leaves[1], *ONE_STEP[1:])
        result.backward(weights)
        found.append([result, *(leaf.grad for leaf in leaves)])
    (looped, to_inputs, to_step), (value, inputs, step) = found
    assert looped.stride() == x.stride()
    assert torch.equal(looped, value)
    assert torch.equal(to_inputs, inputs)
    assert float(to_step) == pytest.approx(float(step), rel=1e-4)


def test_tensors_with_gaps_are_rounded_as_others_are():
    x = torch.randn(64, 1024)[:, ::2].requires_grad_()
    result = learned_step(x, *ONE_STEP)
    assert torch.equal(result, learned_step(x.detach().contiguous(), *ONE_STEP))
    result.sum().backward()
    assert x.grad is None or torch.isfinite(x.grad).all()


def test_loops_convert_between_bfloat16_and_float32_as_torch_does():
    floats = np.concatenate([np.linspace(-3, 3, 101), [0.0, -0.0, 1e-30, 1.00390625, 1.01171875]]).astype(np.float32)
    nearest, bits, back = torch.from_numpy(floats).bfloat16(), np.empty(len(floats), np.uint16), np.empty_like(floats)
    loops.narrow(floats, bits)
    loops.widen(bits, back)
    assert np.array_equal(bits, nearest.view(torch.uint16).numpy())
    assert np.array_equal(back, nearest.float().numpy())
