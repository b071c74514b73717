import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from laconic.program import capture, weights
from laconic.prune import Magnitude, Rounds
from laconic.prune.dropout import connections, dropouts, rescaled_dropout
from laconic.prune.rounds import sparsity_after
from laconic.recipe import apply

QUICK = {"epochs": 1, "batch": 32, "learning_rate": 0.01, "autocast": "off"}


def test_geometric_rounds_each_take_the_same_share_of_what_is_left():
    left = [1.0] + [1 - sparsity_after(number, 5, 0.9, "geometric") for number in range(1, 6)]
    shares = [after / before for before, after in pairwise(left)]
    assert shares == pytest.approx([0.1 ** (1 / 5)] * 5)
    assert left[-1] == pytest.approx(0.1)


def with_dropout():
    layers = nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 4), nn.Dropout(0.2)
    return capture(nn.Sequential(*layers).eval(), (torch.randn(2, 8),))


def test_dropout_is_rescaled_by_the_connections_of_the_layer_that_follows_then_put_back(context):
    program = with_dropout()
    [node] = dropouts(program)  # nothing follows the second
    original = connections(program)
    Magnitude(sparsity=0.75, include=("4",))(program, context)
    Magnitude(sparsity=0.5, include=("0",))(program, context)
    with rescaled_dropout(program, original) as told:
        assert node.args[1] == pytest.approx(0.5 * math.sqrt(6 / 24))
        assert told == ["dropout before 4.weight: 0.5 -> 0.25"]
        program.train()
        kept = program.get_submodule("0")  # the compiled code has the rate too
        assert kept is not None
        assert "0.25" in program.code
        program.eval()
    assert node.args[1] == 0.5
    assert "0.25" not in program.code


def test_every_round_goes_further_and_what_has_gone_stays_away(program, context, monkeypatch):
    seen = []
    fit = type(context).fit

    def noting(self, program, *more):
        seen.append({weight.name: weight.value == 0 for weight in weights(program)})
        return fit(self, program, *more)

    monkeypatch.setattr(type(context), "fit", noting)
    done = apply(program, [Rounds(sparsity=0.75, rounds=2, **QUICK)], context)
    final = {weight.name: weight.value == 0 for weight in weights(done.program)}
    assert len(seen) == 2
    for name, zeros in final.items():
        assert torch.equal(zeros, seen[1][name])
        assert not (seen[0][name] & ~zeros).any()
        assert seen[0][name].sum() == zeros.numel() // 2
        assert zeros.sum() == zeros.numel() * 3 // 4
    assert done.journal[0].score_after > 0.93
    assert [note.partition(":")[0] for note in done.journal[0].notes[:2]] == [
        "round 1 of 2, sparsity 50.0%",
        "round 2 of 2, sparsity 75.0%",
    ]
