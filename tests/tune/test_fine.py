from dataclasses import replace

import pytest
import torch

from laconic.errors import LaconicError
from laconic.program import Uniform, capture, clone, read, weights
from laconic.program.represent import edges, representations
from laconic.prune import Magnitude
from laconic.quantize import Static
from laconic.recipe import apply
from laconic.train import fit, top1
from laconic.tune import FineTune

QUICK = {"epochs": 3, "batch": 32, "learning_rate": 0.05, "autocast": "off"}


def test_an_untrained_network_learns(untrained, context):
    program = capture(untrained, context.example())
    done = apply(program, [FineTune(**QUICK | {"epochs": 6})], context)
    [entry] = done.journal
    assert entry.score_before < 0.4
    assert entry.score_after > 0.9
    assert top1(done.program, context.splits.test) > 0.9


def test_it_is_the_training_loop_on_the_programs_own_tensors(untrained, context):
    program, by_hand = (capture(untrained, context.example()) for _ in range(2))
    FineTune(**QUICK)(program, context)
    fit(by_hand, context.splits.train, FineTune(**QUICK), validation=context.splits.validation, seed=context.seed)
    assert all(torch.equal(value, by_hand.state_dict()[name]) for name, value in program.state_dict().items())


def test_it_recovers_what_pruning_lost(program, context):
    done = apply(program, [Magnitude(sparsity=0.8), FineTune(**QUICK)], context)
    assert done.journal[0].score_after < 0.9
    assert done.journal[1].score_after > 0.93


def test_masks_hold(program, context):
    Magnitude(sparsity=0.8)(program, context)
    zeros = {weight.name: weight.value == 0 for weight in weights(program)}
    FineTune(**QUICK)(program, context)
    for weight in weights(program):
        assert torch.equal(weight.value == 0, zeros[weight.name])


def test_grids_hold_and_the_codes_move(program, context):
    Static()(program, context)
    grids = {node.name: form for node, form in edges(program).items()}
    before = {weight.name: representations(program, weight.name)[-1].codes(weight.value).detach() for weight in weights(program)}
    FineTune(**QUICK | {"learning_rate": 0.002})(program, context)
    for weight in weights(program):
        form = representations(program, weight.name)[-1]
        assert isinstance(form, Uniform)
        codes = weight.value / form.scale.detach().abs().reshape(-1, *[1] * (weight.value.ndim - 1))
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
        assert codes.abs().max() < 128.5
        assert (codes.round() != before[weight.name]).any()
    assert {node.name for node in edges(program)} == grids.keys()


@pytest.mark.parametrize("learning_rate", [0.01, 0.03])
def test_training_with_quantizers_in_place_keeps_the_accuracy(program, context, learning_rate):
    """Learned scales take steps as large, beside their size, as the weights do (Esser et al. 2020, section 2.2); else training diverges."""
    done = apply(program, [Static(), FineTune(epochs=10, learning_rate=learning_rate, autocast="off")], context)
    assert done.journal[1].score_after > done.journal[0].score_before - 0.03


def test_shapes_and_the_graph_stay(program, context):
    code, shapes = program.code, {weight.name: weight.value.shape for weight in weights(program)}
    FineTune(**QUICK)(program, context)
    assert program.code == code
    assert {weight.name: weight.value.shape for weight in weights(program)} == shapes
    assert not program.training


def test_batch_norm_statistics_follow_the_weights(program, context):
    before = read(program, "stem_norm.running_mean").clone()
    FineTune(**QUICK)(program, context)
    assert not torch.equal(read(program, "stem_norm.running_mean"), before)


def test_the_note_has_epochs_and_score(program, context):
    FineTune(**QUICK)(program, context)
    [note] = context.notes
    assert note == f"3 epochs, validation score {top1(clone(program), context.splits.validation):.4f}"


def test_without_training_data_it_is_refused(program, untrained_context):
    with pytest.raises(LaconicError, match="no training split"):
        FineTune(**QUICK)(program, untrained_context)


def test_the_best_epoch_can_be_kept(program, context):
    wild = FineTune(**QUICK | {"learning_rate": 0.5, "keep": "best", "epochs": 4})
    wilder = replace(wild, keep="last")
    best, last = (apply(clone(program), [step], context).journal[0].score_after for step in (wild, wilder))
    assert best >= last
