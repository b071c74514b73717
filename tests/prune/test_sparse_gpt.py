"""SparseGPT: its mathematics against optimal brain surgery that inverts the Hessian anew after every removal, and the step on networks."""

import math

import pytest
import torch

from laconic.errors import LaconicError, NotApplicableError
from laconic.program import capture, clone, read, weights
from laconic.program.forms import kept
from laconic.program.represent import representations
from laconic.prune import Magnitude, SparseGPT, Wanda
from laconic.prune.sparse_gpt import pruned_by_count, pruned_by_pattern
from laconic.quantize import Static, WeightOnly
from laconic.recipe import apply

OUT, IN, DAMPING = 5, 12, 0.01
FREE = torch.zeros(1, OUT, IN, dtype=torch.bool)

# The mathematics


@pytest.fixture
def problem():
    """A weight (1, out, in), and correlated inputs (samples, in)."""
    return torch.randn(1, OUT, IN), torch.randn(300, IN) @ torch.randn(IN, IN)


def moments_of(samples):
    return (samples.T @ samples / len(samples)).double()[None]


def surgery(weight, hessian, order, block, choose):
    """Optimal brain surgery of every row, column by column: the inverse Hessian of the columns left is computed anew each time.

    `choose` gives, for the block's columns and what the removal of each entry costs by eq. 5, the entries that go.
    """
    left, gone = weight[0].double().clone(), torch.zeros(OUT, IN, dtype=torch.bool)
    for start in range(0, IN, block):
        columns = order[start : start + block]
        costs = torch.zeros(OUT, len(columns), dtype=torch.float64)
        for at in range(len(columns)):
            rest = order[start + at :]
            costs[:, at] = left[:, order[start + at]].square() / torch.linalg.inv(hessian[rest][:, rest])[0, 0]
        gone[:, columns] = choose(columns, costs)
        for at, column in enumerate(columns):
            rest = order[start + at :]
            inverse = torch.linalg.inv(hessian[rest][:, rest])
            for row in range(OUT):
                if gone[row, column]:
                    left[row, rest] -= left[row, column] / inverse[0, 0] * inverse[:, 0]
                    left[row, column] = 0
    return left, gone


def damped(moments):
    return moments[0] + DAMPING * moments[0].diagonal().mean() * torch.eye(IN).double()


@pytest.mark.parametrize("block", [1, 4, 5, IN])
def test_what_stays_is_what_surgery_with_an_inverse_recomputed_after_each_removal_leaves(problem, block):
    weight, samples = problem
    moments, count, ends = moments_of(samples), 29, [0]

    def choose(columns, costs):
        ends.append(ends[-1] + OUT * len(columns))
        goes = count * ends[-1] // (OUT * IN) - count * ends[-2] // (OUT * IN)
        marked = torch.zeros(OUT * len(columns), dtype=torch.bool)
        marked[costs.flatten().argsort()[:goes]] = True
        return marked.reshape(OUT, len(columns))

    found = pruned_by_count(weight, moments, FREE, count, block, DAMPING)
    left, gone = surgery(weight, damped(moments), list(range(IN)), block, choose)
    assert torch.equal(found.zeroed[0], gone)
    assert gone.sum() == count
    torch.testing.assert_close(found.value[0], left.float(), rtol=1e-3, atol=1e-4)
    assert not found.value[found.zeroed].any()


def test_one_weight_of_one_output_is_removed_as_hassibi_and_stork_say():
    """With the first of all columns going, the others are the exact minimum: least squares on the inputs that stay."""
    samples, weight = torch.randn(200, 4).double() @ torch.randn(4, 4).double(), torch.tensor([[[1e-3, 2.0, -3.0, 1.0]]])
    found = pruned_by_count(weight, moments_of(samples), torch.zeros(1, 1, 4, dtype=torch.bool), 1, 4, 1e-9)
    assert found.zeroed.tolist() == [[[True, False, False, False]]]
    wanted = torch.linalg.lstsq(samples[:, 1:], samples @ weight[0, 0].double()).solution
    torch.testing.assert_close(found.value[0, 0, 1:], wanted.float(), rtol=1e-4, atol=1e-5)


def test_uncorrelated_inputs_make_it_weights_times_norms_of_inputs(problem):
    weight, _ = problem
    energies = torch.rand(IN) + 0.1
    found = pruned_by_count(weight, energies.diag().double()[None], FREE, 30, IN, 1e-6)
    scores = weight.abs() * energies.sqrt()
    assert scores[found.zeroed].max() < scores[~found.zeroed].min()
    torch.testing.assert_close(found.value, weight.masked_fill(found.zeroed, 0))


@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (3, 6), (1, 2)])
def test_patterns_are_chosen_and_adjusted_group_after_group_as_surgery_does(problem, pattern):
    weight, samples = problem
    (keep, of), moments, order = pattern, moments_of(samples), torch.randperm(IN)

    def choose(columns, costs):
        return costs.argsort(1).argsort(1) < of - keep

    found = pruned_by_pattern(weight, moments, FREE, order, pattern, DAMPING)
    left, gone = surgery(weight, damped(moments), order.tolist(), of, choose)
    assert torch.equal(found.zeroed[0], gone)
    torch.testing.assert_close(found.value[0], left.float(), rtol=1e-3, atol=1e-4)
    assert (found.zeroed[:, :, order].reshape(OUT, -1, of).sum(-1) == of - keep).all()


@pytest.mark.parametrize("count", [0, 20, 41])
def test_entries_held_at_zero_stay_there_and_count(problem, count):
    weight, samples = problem
    held = torch.rand(1, OUT, IN) < 0.3
    found = pruned_by_count(weight.masked_fill(held, 0), moments_of(samples), held, count, 5, DAMPING)
    assert (found.zeroed | ~held).all()
    assert found.zeroed.sum() == max(count, int(held.sum()))
    assert not found.value[held].any()


def test_groups_are_pruned_each_by_its_own_inputs_and_share_the_count(problem):
    weight, samples = problem
    moments = torch.cat([moments_of(samples), moments_of(torch.randn(200, IN))])
    both = torch.cat([weight, 1e-3 * weight])
    found = pruned_by_count(both, moments, FREE.expand(2, -1, -1), OUT * IN, IN, DAMPING)
    assert not found.zeroed[0].any(), "the small weights cost less"
    torch.testing.assert_close(found.value[0], weight[0])


# The step


def sparsities(program):
    return {weight.name: float((weight.value == 0).double().mean()) for weight in weights(program)}


def distance(program, whole, context):
    inputs, _ = context.splits.validation.batch(slice(None))
    with torch.no_grad():
        wanted = whole.eval()(inputs)
        return float((program.eval()(inputs) - wanted).square().mean() / wanted.square().mean())


def test_outputs_on_other_images_are_nearer_than_by_magnitude_and_by_wanda(program, context):
    found = {step: distance(step(sparsity=0.6)(clone(program), context), program, context) for step in (Magnitude, Wanda, SparseGPT)}
    assert found[SparseGPT] < 0.3 * min(found[Magnitude], found[Wanda])


@pytest.mark.parametrize("step", [SparseGPT, Wanda])
@pytest.mark.parametrize("sparsity", [0.29, 0.5, 0.83])
def test_every_layer_has_exactly_its_share_of_zeros(step, sparsity, program, context):
    step(sparsity=sparsity)(program, context)
    for weight in weights(program):
        assert (weight.value == 0).sum() == math.floor(sparsity * weight.value.numel() + 1e-9)


@pytest.mark.parametrize("step", [SparseGPT, Wanda])
def test_patterns_hold_along_the_input_channels_at_every_kernel_position(step, program, context):
    step(pattern=(2, 4), exclude=("stem",))(program, context)
    for weight in weights(program, exclude=("stem",)):
        along = weight.value.movedim(1, -1)
        assert ((along.reshape(*along.shape[:-1], -1, 4) == 0).sum(-1) == 2).all()
    assert sparsities(program)["stem.weight"] == 0


@pytest.mark.parametrize("step", [SparseGPT, Wanda])
def test_included_layers_are_pruned_and_others_are_as_they_were(step, program, context):
    before = {weight.name: weight.value.clone() for weight in weights(program)}
    step(include=("left", "right", "head"), exclude=("head",))(program, context)
    changed = {weight.name for weight in weights(program) if not torch.equal(weight.value, before[weight.name])}
    assert changed == {"left.weight", "right.weight"}


def test_later_layers_see_what_pruned_ones_make(program, context):
    """Pruning a layer alone leaves another result than pruning it behind a pruned one."""
    alone = SparseGPT(include=("head",))(clone(program), context)
    behind = SparseGPT()(clone(program), context)
    assert not torch.equal(read(alone, "head.weight"), read(behind, "head.weight"))


@pytest.mark.parametrize("step", [SparseGPT, Wanda])
def test_a_pruned_network_is_pruned_further_and_to_the_share_that_is_asked(step, program, context):
    done = apply(program, [Magnitude(sparsity=0.4), step(sparsity=0.7)], context).program
    for weight in weights(done):
        assert (weight.value == 0).sum() == math.floor(0.7 * weight.value.numel() + 1e-9)


@pytest.mark.parametrize("second", [{"sparsity": 0.5}, {"pattern": (2, 4), "exclude": ("stem",)}])
@pytest.mark.parametrize("step", [SparseGPT, Wanda])
def test_asking_for_what_is_there_already_is_told(step, second, program, context):
    with pytest.raises(LaconicError, match=r"would zero no weight that is not zero already in .*left\.weight"):
        apply(program, [step(**second), step(**second)], context)


@pytest.mark.parametrize("step", [SparseGPT, Wanda])
@pytest.mark.parametrize("later", [WeightOnly(format="int4", rounding="gptq"), WeightOnly(format="int8"), Static()])
def test_zeros_stay_zero_when_the_network_is_quantized(step, later, program, context):
    pruned = step(sparsity=0.6)(program, context)
    zeros = {weight.name: weight.value == 0 for weight in weights(pruned)}
    done = apply(pruned, [later], context).program
    for weight in weights(done):
        assert not weight.value[zeros[weight.name]].any()
        assert torch.equal(kept(representations(done, weight.name)), ~zeros[weight.name])


def test_weights_that_are_quantized_already_are_refused(program, context):
    quantized = WeightOnly(format="int4")(program, context)
    with pytest.raises(NotApplicableError, match=r"quantized already: stem.weight \(int4\)"):
        SparseGPT()(quantized, context)


def test_networks_without_a_layer_of_the_kind_are_refused(context):
    embedding = capture(torch.nn.Sequential(torch.nn.Embedding(6, 4)), (torch.tensor([[1, 2], [3, 4]]),))
    for step in (SparseGPT, Wanda):
        with pytest.raises(NotApplicableError, match=r"weights that one linear layer or convolution reads; not 0.weight"):
            step()(embedding, context)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [SparseGPT(), Wanda(), Magnitude(allocation="sensitivity")])
def test_calibration_inputs_that_are_no_numbers_are_refused_before_any_work(step, bad, program, context, monkeypatch):
    before = {weight.name: weight.value.clone() for weight in weights(program)}
    broken = torch.full((3, 1, 8, 8), bad)
    monkeypatch.setattr(type(context), "calibration", lambda self, batch=64: iter([broken]))
    with pytest.raises(LaconicError, match="NaN or infinite"):
        step(program, context)
    assert all(torch.equal(weight.value, before[weight.name]) for weight in weights(program))


@pytest.mark.parametrize("step", [SparseGPT(), Wanda(), Magnitude(allocation="sensitivity")])
def test_no_calibration_input_at_all_is_told(step, program, context, monkeypatch):
    monkeypatch.setattr(type(context), "calibration", lambda self, batch=64: iter(()))
    with pytest.raises(LaconicError, match="no calibration inputs"):
        step(program, context)


def test_a_layer_that_is_emptied_is_told(program, context):
    with torch.no_grad():
        read(program, "left.weight").zero_()
    with pytest.raises(LaconicError, match=r"no weight at all in left.weight; lower the sparsity, or exclude this layer"):
        Wanda()(program, context)


def test_inputs_that_are_no_whole_groups_are_told(program, context):
    with pytest.raises(LaconicError, match=r"a pattern of 4 needs inputs in a multiple of 4, unlike stem.weight \(1 inputs\)"):
        SparseGPT(pattern=(2, 4))(program, context)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": (2, 4), "sparsity": 0.5}, "leave sparsity and allocation out"),
        ({"pattern": (2, 4), "allocation": "sensitivity"}, "leave sparsity and allocation out"),
        ({"pattern": (4, 4)}, "fewer than all"),
    ],
)
def test_goals_that_exclude_each_other_are_refused(settings, message):
    for step in (SparseGPT, Wanda):
        with pytest.raises(ValueError, match=message):
            step(**settings)
