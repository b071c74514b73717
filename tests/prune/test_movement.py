import math

import pytest
import torch

from laconic.program import Mask, weights
from laconic.program.represent import representations
from laconic.prune import Magnitude, Movement
from laconic.prune.movement import ScoredMask
from laconic.recipe import apply

QUICK = {"epochs": 2, "batch": 32, "learning_rate": 0.01, "every": 3, "autocast": "off"}


def test_the_score_is_minus_gradient_times_weight_also_where_the_mask_holds():
    mask, inputs = ScoredMask(torch.tensor([True, False, True])), torch.tensor([2.0, 3.0, -1.0])
    weight = torch.tensor([0.5, -1.0, 4.0], requires_grad=True)
    for _ in range(2):
        (mask(weight) * inputs).sum().backward()
    assert mask.score.tolist() == pytest.approx([-2 * 2.0 * 0.5, -2 * 3.0 * -1.0, -2 * -1.0 * 4.0])
    assert weight.grad.tolist() == [4.0, 0.0, -2.0]
    mask.eval()
    (mask(weight) * inputs).sum().backward()
    assert mask.score[0] == -2.0, "only training counts"


def test_a_descent_step_grows_the_weights_of_positive_scores_and_shrinks_the_others():
    mask, weight = ScoredMask(torch.ones(50)), torch.randn(50, requires_grad=True)
    (mask(weight) * torch.randn(50)).sum().backward()
    moved = weight - 1e-4 * weight.grad
    assert torch.equal(moved.abs() > weight.abs(), mask.score > 0)


def test_every_layer_ends_at_its_share_under_a_plain_mask_and_the_network_is_good(program, context):
    done = apply(program, [Magnitude(sparsity=0.3), Movement(sparsity=0.6, **QUICK | {"epochs": 4})], context)
    for weight in weights(done.program):
        first, second = representations(done.program, weight.name)
        assert type(second) is Mask
        assert (weight.value == 0).sum() == math.floor(0.6 * weight.value.numel() + 1e-6)
        assert not (second.keep & ~first.keep).any(), "what an earlier step held is held first"
    assert done.journal[1].score_after > 0.85
