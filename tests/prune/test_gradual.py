import math
from dataclasses import replace

import pytest
import torch

from laconic.errors import LaconicError
from laconic.program import Mask, read, represent, weights
from laconic.program.represent import representations, stored_tensor
from laconic.prune import Gradual, Magnitude
from laconic.prune.gradual import LearningMask
from laconic.prune.growing import Growing
from laconic.prune.magnitude import smallest
from laconic.prune.sparse_training import close_lowest, cubic, magnitudes, open_masks
from laconic.recipe import apply

QUICK = {"epochs": 2, "batch": 32, "learning_rate": 0.01, "every": 3, "autocast": "off"}


def sparsities(program):
    return {weight.name: float((weight.value == 0).float().mean()) for weight in weights(program)}


# The mathematics


def test_the_schedule_is_the_cubic_of_the_source():
    initial, final, start, steps, interval = 0.1, 0.87, 200, 50, 10
    for step in range(0, steps + 1, 7):
        t = start + step * interval
        expected = final + (initial - final) * (1 - (t - start) / (steps * interval)) ** 3
        assert cubic(step / steps, final, initial) == pytest.approx(expected)


def test_sparsity_grows_from_begin_to_end_then_stays_and_the_network_is_another_until_then():
    mask, score = Mask(torch.ones(1000)), torch.rand(1000)
    growing = Growing(Gradual(sparsity=0.8, initial=0.2, begin=0.25, end=0.75, every=5), {"w": mask}, lambda: [score])
    told, held = [], []
    for done in range(1, 101):
        told.append(growing(done, 100))
        held.append(1 - float(mask.keep.float().mean()))
    assert told == [{}] * 75 + [None] * 25
    assert held[23] == 0
    assert held[24] == pytest.approx(0.2, abs=1e-6)
    assert held[49] == pytest.approx(0.8 - 0.6 / 8, abs=1e-6)
    assert held[48] == held[44]
    assert held[74:] == [pytest.approx(0.8, abs=1e-6)] * 26
    assert held == sorted(held)


@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize(("begin", "end"), [(0.0, 1.0), (0.0, 0.01), (0.9, 1.0), (0.5, 0.51)])
def test_the_sparsity_is_reached_however_short_the_training(total, begin, end):
    mask, score = Mask(torch.ones(10)), torch.rand(10)
    growing = Growing(Gradual(sparsity=0.8, begin=begin, end=end, every=100), {"w": mask}, lambda: [score])
    for done in range(1, total + 1):
        growing(done, total)
    assert (~mask.keep).sum() == 8


def test_an_entry_comes_back_when_others_have_become_less_important():
    mask = Mask(torch.ones(4))
    close_lowest({"w": mask}, [torch.tensor([1.0, 2.0, 3.0, 4.0])], 0.5, "layer")
    assert mask.keep.tolist() == [False, False, True, True]
    close_lowest({"w": mask}, [torch.tensor([1.0, 2.0, 0.5, 4.0])], 0.5, "layer")
    assert mask.keep.tolist() == [False, True, False, True]


def test_the_gradient_stops_at_a_mask_and_passes_a_learning_mask():
    keep = torch.tensor([True, False])
    for form, expected in ((Mask, [3.0, 0.0]), (LearningMask, [3.0, 3.0])):
        weight = torch.ones(2, requires_grad=True)
        view = form(keep)(weight)
        assert view.tolist() == [1.0, 0.0]
        (3 * view).sum().backward()
        assert weight.grad.tolist() == expected


# The step


@pytest.mark.parametrize("straight_through", [False, True])
def test_every_layer_ends_at_its_share_under_a_plain_mask_and_the_network_is_good(straight_through, program, context):
    done = apply(program, [Gradual(sparsity=0.7, straight_through=straight_through, **QUICK)], context)
    for weight in weights(done.program):
        assert (weight.value == 0).sum() == math.floor(0.7 * weight.value.numel() + 1e-6)
        assert [type(form) for form in representations(done.program, weight.name)] == [Mask]
    assert done.journal[0].score_after > 0.93


def test_the_global_scope_gives_the_share_to_all_together(program, context):
    Gradual(sparsity=0.7, scope="global", **QUICK)(program, context)
    values = [weight.value for weight in weights(program)]
    assert sum(int((value == 0).sum()) for value in values) == int(0.7 * sum(value.numel() for value in values))
    assert len(set(sparsities(program).values())) > 1


@pytest.mark.parametrize("straight_through", [False, True])
def test_held_weights_keep_their_value_unless_they_learn(straight_through, program, context, monkeypatch):
    stored = []

    def noting(masks, scores, sparsity, scope):
        close_lowest(masks, scores, sparsity, scope)
        stored.append(stored_tensor(program, "head.weight").detach().clone())

    monkeypatch.setattr("laconic.prune.growing.close_lowest", noting)
    plain = {"weight_decay": 0.0, "momentum": 0.0, "alpha": 0.0, "epochs": 1}
    Gradual(sparsity=0.6, end=0.01, include=("head",), straight_through=straight_through, **QUICK | plain)(program, context)
    [mask] = representations(program, "head.weight")
    [at_choice], after = stored, stored_tensor(program, "head.weight")
    assert float((after != at_choice)[~mask.keep].float().mean()) == pytest.approx(float(straight_through), abs=0.1)
    assert float((after != at_choice)[mask.keep].float().mean()) > 0.9


def test_a_weight_pruned_for_good_by_an_earlier_step_does_not_come_back(program, context):
    done = apply(program, [Magnitude(sparsity=0.4, include=("head",)), Gradual(sparsity=0.6, **QUICK)], context)
    first, second = representations(done.program, "head.weight")
    assert not (second.keep & ~first.keep).any()
    assert (~second.keep).float().mean() == pytest.approx(0.6)


def test_less_than_is_zero_already_is_refused_before_any_training(program, context):
    with pytest.raises(LaconicError, match=r"prune\.Gradual would zero no weight that is not zero already"):
        apply(program, [Magnitude(sparsity=0.8), Gradual(sparsity=0.5)], context)


def test_a_layer_that_would_be_left_without_a_weight_is_told(program, context):
    with torch.no_grad():
        read(program, "stem.weight").mul_(1e-6)
    with pytest.raises(LaconicError, match=r"no weight at all in stem\.weight"):
        Gradual(sparsity=0.9, scope="global")(program, context)
    masks = {"stem.weight": Mask(torch.ones(4)), "head.weight": Mask(torch.ones(4))}
    with pytest.raises(LaconicError, match=r"at a sparsity of 50\.0% no weight is left in stem\.weight; .*scope: layer"):
        close_lowest(masks, [torch.zeros(4), torch.ones(4)], 0.5, "global")


def test_the_best_epoch_that_is_kept_has_the_sparsity_asked_for(program, context):
    Gradual(sparsity=0.9, end=0.6, keep="best", **QUICK | {"epochs": 3})(program, context)
    assert all(share > 0.88 for share in sparsities(program).values())


def test_an_interrupted_training_goes_on_to_the_same_masks(program, context, tmp_path, monkeypatch):
    step, whole, part = Gradual(sparsity=0.8, **QUICK), program.__deepcopy__(), program.__deepcopy__()
    step(whole, context)
    choose = close_lowest

    def killed(masks, scores, sparsity, scope):
        if sparsity > 0.78:
            raise KeyboardInterrupt
        choose(masks, scores, sparsity, scope)

    with monkeypatch.context() as patched:
        patched.setattr("laconic.prune.growing.close_lowest", killed)
        with pytest.raises(KeyboardInterrupt):
            step(part, replace(context, folder=tmp_path))  # in the second epoch
    assert list(tmp_path.iterdir())
    step(program, replace(context, folder=tmp_path))
    assert all(torch.equal(read(whole, weight.name), weight.value) for weight in weights(program))


def test_the_journal_tells_the_share_of_each_layer_and_of_all(program, context):
    Gradual(sparsity=0.75, include=("head", "down"), **QUICK)(program, context)
    assert context.notes[0].startswith("pruning while training: 2 epochs, validation score 0.")
    assert context.notes[1:] == [
        "down.weight: 75.0% of 1152 weights are zero",
        "head.weight: 75.0% of 2560 weights are zero",
        "together: 75.00% of 3712 weights are zero",
    ]


@pytest.mark.parametrize(
    ("settings", "message"), [({"begin": 0.8}, "begin=0.8 must be before end=0.75"), ({"initial": 0.9}, "initial=0.9 must be below")]
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Gradual(**settings)


def test_masks_are_chosen_by_what_is_before_them(program):
    """A weight that a mask holds is ranked by the value that it keeps, not by its zero."""
    represent(program, "head.weight", Mask(torch.ones_like(read(program, "head.weight"))))
    masks = open_masks(program, [weight for weight in weights(program) if weight.name == "head.weight"])
    before = read(program, "head.weight").detach().clone()
    close_lowest(masks, magnitudes(program, masks), 0.9, "layer")
    close_lowest(masks, magnitudes(program, masks), 0.3, "layer")
    assert torch.equal(read(program, "head.weight") == 0, smallest(before, 0.3))
