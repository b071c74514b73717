import json
from dataclasses import replace
from typing import ClassVar

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from laconic.context import Context
from laconic.data import Split, Splits
from laconic.errors import LaconicError
from laconic.program import Mask, Uniform, capture, clone, place, read, represent
from laconic.program.represent import edges, represented
from laconic.prune import Magnitude
from laconic.quantize import Static
from laconic.recipe import apply, check_needs, compress, parse, plain, read_recipe, schema, step_classes
from laconic.step import step
from laconic.store import Store
from laconic.train import top1
from laconic.tune import FineTune

# Recipes as data

GOOD = [
    ["prune.Magnitude"],
    ["quantize.Static", {"tune.FineTune": {"epochs": 2}}],
    [{"prune.Magnitude": {}}],
    [{"prune.Magnitude": None}],
    [{"prune.Magnitude": {"sparsity": 0.75, "exclude": ["head*"]}}, {"distill.Response": {"alpha": 1}}],
    [{"prune.Magnitude": {"quality": 0.7}}],
]

BAD = {
    "nothing": (None, ["a recipe is a list of steps", "got nothing"]),
    "an empty list": ([], ["got an empty list"]),
    "a mapping": ({"prune.Magnitude": {}}, ["a list of steps", "got dict"]),
    "a text": ("prune.Magnitude", ["got str"]),
    "a number for a step": ([3], ["recipe step 1", "got 3"]),
    "two steps in one": ([{"prune.Magnitude": {}, "tune.FineTune": {}}], ["recipe step 1", "one `family.Step"]),
    "an empty step": (["tune.FineTune", {}], ["recipe step 2"]),
    "an unknown family": ([{"prun.Magnitude": {}}], ["recipe step 1", "'prun.Magnitude'", "family", "did you mean 'prune'"]),
    "no family": (["Magnitude"], ["recipe step 1", "'Magnitude'", "There are: distill, factorize, prune, quantize, share, tune"]),
    "an unknown step": (["tune.FineTune", "prune.Magnitud"], ["recipe step 2", "step of prune", "did you mean 'Magnitude'"]),
    "a name that is no step": (["prune.magnitude"], ["recipe step 1", "Magnitude"]),
    "a private name": (["prune.__all__"], ["recipe step 1", "Magnitude"]),
    "an unknown setting": ([{"prune.Magnitude": {"sparsty": 0.5}}], ["step 1, prune.Magnitude", "'sparsty'", "did you mean 'sparsity'"]),
    "settings as a list": ([{"prune.Magnitude": [0.5]}], ["step 1, prune.Magnitude", "{setting: value}", "[0.5]"]),
    "a bare value": ([{"prune.Magnitude": 0.5}], ["step 1, prune.Magnitude", "0.5"]),
    "a value too large": ([{"prune.Magnitude": {"sparsity": 1}}], ["sparsity", "less than 1", "got 1"]),
    "a value below": ([{"prune.Magnitude": {"sparsity": -0.1}}], ["sparsity", "greater than", "got -0.1"]),
    "a wrong word": ([{"quantize.Static": {"ranges": "minmax"}}], ["ranges", "'min-max'", "got 'minmax'"]),
    "a wrong type": ([{"tune.FineTune": {"epochs": 2.5}}], ["epochs", "integer", "got 2.5"]),
    "no number": ([{"tune.FineTune": {"learning_rate": float("nan")}}], ["learning_rate", "finite"]),
    "two criteria": ([{"prune.Magnitude": {"quality": 1, "sparsity": 0.5}}], ["either sparsity", "or quality"]),
    "several mistakes": ([{"tune.FineTune": {"epochs": 0, "batch": 0}}], ["epochs", "batch"]),
}


@pytest.mark.parametrize("recipe", GOOD, ids=str)
def test_a_recipe_is_read_and_comes_back_with_every_setting(recipe):
    steps = parse(recipe)
    assert len(steps) == len(recipe)
    assert parse(plain(steps)) == steps
    assert parse(json.loads(json.dumps(plain(steps)))) == steps


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_in_a_recipe_is_told_with_its_place_and_what_is_possible(name):
    recipe, words = BAD[name]
    with pytest.raises(LaconicError) as told:
        parse(recipe)
    for word in words:
        assert word in str(told.value)
    assert "\n" not in str(told.value)
    assert "pydantic" not in str(told.value)


def test_the_values_of_a_recipe_reach_the_step():
    assert parse([{"prune.Magnitude": {"sparsity": 0.75, "exclude": ["head*"]}}]) == [Magnitude(sparsity=0.75, exclude=("head*",))]


def test_a_recipe_is_read_from_yaml(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("- prune.Magnitude: {sparsity: 0.75}\n- quantize.Static\n")
    assert read_recipe(path) == [Magnitude(sparsity=0.75), Static()]


@pytest.mark.parametrize(
    ("text", "message"),
    [("- {a", "recipe.yaml is not YAML: .*line"), ("", "got nothing"), ("!!python/object:os.system {}", "not YAML")],
)
def test_a_file_that_is_no_recipe_is_told(tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(LaconicError, match=message):
        read_recipe(tmp_path / "recipe.yaml")


def test_an_absent_recipe_is_told(tmp_path):
    with pytest.raises(LaconicError, match=r"cannot read the recipe .*absent.yaml: No such file"):
        read_recipe(tmp_path / "absent.yaml")
    with pytest.raises(LaconicError, match="cannot read the recipe"):
        read_recipe(tmp_path)


# The schema, by a validator that is not ours


def valid(recipe):
    return jsonschema.Draft202012Validator(schema()).is_valid(recipe)


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(schema())
    assert set(step_classes()) == {entry["const"] for entry in schema()["items"]["anyOf"] if "const" in entry}


@pytest.mark.parametrize("recipe", GOOD, ids=str)
def test_the_schema_takes_good_recipes(recipe):
    assert valid(recipe) or None in [value for entry in recipe if isinstance(entry, dict) for value in entry.values()]
    assert valid(plain(parse(recipe)))


@pytest.mark.parametrize("name", sorted(BAD.keys() - {"no number", "two criteria"}))  # not said in JSON Schema
def test_the_schema_refuses_bad_recipes(name):
    assert not valid(BAD[name][0])


# The engine: what it refuses


def bad_step(function):
    """Make a nameless step of a function that edits a program."""

    def act(program, context):
        return function(program) or program

    return act


def drop_forms(kind):
    def change(program):
        for name, forms in list(represented(program)):
            if any(isinstance(form, kind) for form in forms):
                module, attribute = program.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)
        with torch.no_grad():
            read(program, "head.bias").add_(1.0)

    return bad_step(change)


def test_a_step_that_changes_nothing_is_refused(program, context):
    with pytest.raises(LaconicError, match="changed nothing"):
        apply(program, [bad_step(lambda program: None)], context)
    with pytest.raises(LaconicError, match="changed nothing"):
        apply(program, [bad_step(clone)], context)


def test_a_step_that_is_refused_is_named(program, context):
    @step
    class Idle:
        """Do nothing."""

        def __call__(self, program, context):
            return program

    with pytest.raises(LaconicError, match="Idle changed nothing"):
        apply(program, [Idle()], context)


def test_freeing_pruned_weights_is_refused(program, context):
    with pytest.raises(LaconicError, match=r"undid the pruning of (stem|left|right|down|head)\.weight"):
        apply(program, [Magnitude(sparsity=0.5), drop_forms(Mask)], context)


def test_freeing_one_pruned_weight_is_refused(program, context):
    def free_one(program):
        [mask] = program.get_submodule("left").parametrizations["weight"]
        mask.keep.view(-1)[int((~mask.keep).flatten().nonzero()[0])] = True

    with pytest.raises(LaconicError, match=r"undid the pruning of left\.weight"):
        apply(program, [Magnitude(sparsity=0.5), bad_step(free_one)], context)


def test_pruning_more_is_allowed(program, context):
    done = apply(program, [Magnitude(sparsity=0.5), Magnitude(sparsity=0.75)], context)
    assert done.journal[1].bytes_after < done.journal[1].bytes_before


def test_freeing_quantized_weights_is_refused(program, context):
    with pytest.raises(LaconicError, match=r"undid the quantization of (stem|left|right|down|head)\.weight: it had 8 bits"):
        apply(program, [Static(), drop_forms(Uniform)], context)


def test_widening_the_codes_is_refused(program, context):
    def widen(program):
        form = program.get_submodule("left").parametrizations["weight"][0]
        form.bits = 16
        with torch.no_grad():
            form.scale /= 256

    with pytest.raises(LaconicError, match=r"undid the quantization of left\.weight: it had 8 bits"):
        apply(program, [Static(), bad_step(widen)], context)


def test_freeing_quantized_activations_is_refused(program, context):
    def remove(program):
        for node in list(edges(program)):
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
        program.recompile()

    with pytest.raises(LaconicError, match="undid the quantization"):
        apply(program, [Static(), bad_step(remove)], context)


def test_making_a_weight_larger_is_refused(context):
    def widen(program):
        place(program, "0.weight", torch.cat([read(program, "0.weight").detach(), torch.zeros(4, 4)]))
        place(program, "0.bias", torch.zeros(8))
        place(program, "1.weight", torch.zeros(3, 8))

    program = capture(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), (torch.randn(2, 4),))
    with pytest.raises(LaconicError, match=r"made 0\.weight larger: 16 entries before, 32 after"):
        apply(program, [bad_step(widen)], vectors())


def test_a_network_that_no_longer_gives_numbers_is_refused(program, context):
    def spoil(program):
        with torch.no_grad():
            read(program, "head.bias")[3] = float("nan")

    with pytest.raises(LaconicError, match="outputs are not finite numbers"):
        apply(program, [bad_step(spoil)], context)


def test_a_network_that_can_no_longer_be_trained_is_refused(program, context):
    def freeze(program):
        with torch.no_grad():
            read(program, "head.bias").add_(1.0)
        for parameter in program.parameters():
            parameter.requires_grad_(False)

    with pytest.raises(LaconicError, match="cannot be trained any more"):
        apply(program, [bad_step(freeze)], context)


def test_a_mask_that_changes_nothing_is_refused(program, context):
    def mask(program):
        represent(program, "head.weight", Mask(torch.ones(10, 256)))

    with pytest.raises(LaconicError, match="changed nothing"):
        apply(program, [bad_step(mask)], context)


def test_masks_of_one_weight_add_up(program, context):
    """A later mask that keeps what an earlier one zeroed frees nothing."""

    def mask(keep):
        return bad_step(lambda program: represent(program, "head.weight", Mask(keep)))

    left = torch.arange(256).expand(10, 256) >= 64
    apply(program, [mask(left), mask(left.flip(1))], context)
    assert (read(program, "head.weight") == 0).float().mean() == 0.5


# The engine: what it writes


def vectors(examples=64, **parts):
    generator = np.random.default_rng(0)
    part = Split(generator.normal(size=(examples, 4)).astype(np.float32), generator.integers(0, 3, examples))
    return Context(replace(Splits(part, part, part, part), **parts))


def line():
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 3.0, -4.0], [5.0, -6.0, 7.0, -8.0], [9.0, -10.0, 11.0, -12.0]]))
    return nn.Sequential(model)


def test_the_journal_has_the_bytes_macs_and_scores_that_one_counts_by_hand():
    asked = []

    def score(model, split):
        asked.append(float(read(model, "0.weight").detach().abs().sum()))
        return asked[-1] / 100

    context = replace(vectors(), score=score)
    done = compress(line(), [Magnitude(sparsity=0.5), Static(bias_correction=False)], context)
    pruned, quantized = done.journal
    # 12 weights and 3 biases of 4 bytes; then 6 weights of 4, 12 bits of mask, 3 biases; then 6 codes, the mask, 3 scales,
    # 3 biases and the grid of the inputs
    assert [pruned.bytes_before, pruned.bytes_after, quantized.bytes_after] == [60, 6 * 4 + 2 + 12, 6 + 2 + 12 + 12 + 8]
    assert {pruned.macs_before, pruned.macs_after, quantized.macs_before, quantized.macs_after} == {12}
    assert pruned.score_before == 0.78
    assert pruned.score_after == pytest.approx(0.57)
    assert quantized.score_before == pruned.score_after
    assert quantized.score_after == pytest.approx(0.57, abs=0.003)
    assert pruned.notes == ("0.weight: 50.0% of 12 weights are zero",)
    assert [entry.step for entry in done.journal] == ["prune.Magnitude", "quantize.Static"]
    assert pruned.settings["sparsity"] == 0.5


@pytest.mark.parametrize("steps", [[Magnitude()], [Static()]], ids=["pruned", "quantized"])
def test_a_network_that_is_one_bare_layer_can_be_compressed(steps, tmp_path):
    done = compress(nn.Linear(4, 3), steps, vectors())
    (example,) = vectors().example(5)
    assert torch.equal(clone(done.program)(example), done.program(example))


def test_scores_are_of_the_validation_part_and_calibration_of_its_own():
    seen = []

    def score(model, split):
        seen.append(split)
        return top1(model, split)

    part = vectors().splits.test
    parts = {name: part.take(slice(start, start + 8)) for start, name in enumerate(("train", "calibration", "validation", "test"))}
    context = replace(vectors(**parts), score=score)
    compress(line(), [Static()], context)
    assert all(split is parts["validation"] for split in seen)


def test_the_notes_of_a_step_are_in_its_entry_only(context, program):
    done = apply(program, [Magnitude(), Static()], context)
    assert any("zero" in note for note in done.journal[0].notes)
    assert not any("zero" in note for note in done.journal[1].notes)
    assert context.notes == []


def test_every_step_is_announced_before_it_runs(program, context):
    told = []

    def fail(program, context):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        apply(program, [Magnitude(), fail], context, say=told.append)
    assert len(told) == 2
    assert told[0] == "prune.Magnitude"


def test_the_teacher_is_the_network_as_it_came_unless_one_is_given(program, context):
    teachers = []

    def look(program, context):
        teachers.append(context.teacher)
        with torch.no_grad():
            read(program, "head.bias").add_(1.0)
        return program

    other = clone(program)
    expected = program(*context.example(9)).detach()
    apply(clone(program), [Magnitude(), look, look], context)
    apply(clone(program), [look], replace(context, teacher=other))
    assert teachers[0] is teachers[1]
    assert torch.equal(teachers[0](*context.example(9)), expected)
    assert teachers[2] is other


def test_no_steps_leave_the_network_as_it_was(model, context):
    done = compress(model, [], context)
    assert done.journal == ()
    torch.testing.assert_close(done.program(*context.example(5)), model(*context.example(5)))


def test_a_step_that_trains_is_refused_before_any_work_where_there_is_no_training_data(model, untrained_context):
    def never(program, context):
        raise AssertionError

    with pytest.raises(LaconicError, match=r"recipe step 2, tune.FineTune, trains, and the data has no training split"):
        compress(model, [never, FineTune()], untrained_context)
    check_needs([Magnitude(), Static()], untrained_context)


# The engine with a store


@step
class Nudge:
    """Add to a bias, and count."""

    amount: float = 1.0
    runs: ClassVar[list[float]] = []

    def __call__(self, program, context):
        self.runs.append(self.amount)
        with torch.no_grad():
            read(program, "head.bias")[0].add_(self.amount)
        context.note(f"nudged by {self.amount}")
        return program


@pytest.fixture
def runs():
    Nudge.runs.clear()
    return Nudge.runs


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "work")


def test_a_finished_step_is_not_run_twice(program, context, store, runs):
    first, second = (apply(clone(program), [Nudge(), Nudge(amount=2)], context, store) for _ in range(2))
    assert runs == [1, 2]
    assert first.journal == second.journal
    assert second.journal[0].notes == ("nudged by 1.0",)
    assert torch.equal(first.program(*context.example(9)), second.program(*context.example(9)))


def test_without_a_store_every_step_is_run(program, context, runs):
    for _ in range(2):
        apply(clone(program), [Nudge()], context)
    assert runs == [1, 1]


def test_a_longer_recipe_goes_on_where_the_shorter_one_ended(program, context, store, runs):
    for steps in ([Nudge()], [Nudge(), Nudge(amount=2)], [Nudge(), Nudge(amount=3)]):
        apply(clone(program), steps, context, store)
    assert runs == [1, 2, 3]


def test_the_same_step_at_another_place_is_another_piece_of_work(program, context, store, runs):
    apply(clone(program), [Nudge(), Nudge()], context, store)
    apply(clone(program), [Nudge(amount=2), Nudge()], context, store)
    assert runs == [1, 1, 2, 1]


def test_another_seed_setting_or_network_is_another_piece_of_work(program, context, store, runs):
    other = clone(program)
    with torch.no_grad():
        read(other, "stem.weight")[0, 0, 0, 0] += 1e-3
    for each, nudge, seed in ((program, 1, 0), (program, 2, 0), (program, 1, 1), (other, 1, 0)):
        apply(clone(each), [Nudge(amount=nudge)], replace(context, seed=seed), store)
    assert len(runs) == 4


def test_other_data_is_another_piece_of_work(program, context, store, runs):
    other = replace(context.splits, calibration=context.splits.calibration.take(slice(0, 40)))
    for splits in (context.splits, other):
        apply(clone(program), [Nudge()], replace(context, splits=splits), store)
    assert len(runs) == 2


def test_another_teacher_is_another_piece_of_work(program, context, store, runs):
    teacher = clone(program)
    with torch.no_grad():
        read(teacher, "stem.weight")[0, 0, 0, 0] += 1e-3
    for each in (clone(program), teacher):
        apply(clone(program), [Nudge()], replace(context, teacher=each), store)
    assert len(runs) == 2


def test_a_run_that_was_killed_goes_on_with_the_step_that_was_not_finished(program, context, store, runs):
    killed = [True]

    @step
    class Mortal:
        """Die once."""

        def __call__(self, program, context):
            if killed.pop():
                raise KeyboardInterrupt
            return Nudge(amount=5)(program, context)

    killed.insert(0, False)
    steps = [Nudge(), Mortal(), Nudge(amount=2)]
    with pytest.raises(KeyboardInterrupt):
        apply(clone(program), steps, context, store)
    assert runs == [1]
    resumed = apply(clone(program), steps, context, store)
    assert runs == [1, 5, 2]
    assert [entry.step.rpartition(".")[2] for entry in resumed.journal] == ["Nudge", "Mortal", "Nudge"]
    whole = apply(clone(program), [Nudge(), Nudge(amount=5), Nudge(amount=2)], context)
    assert torch.equal(resumed.program(*context.example(9)), whole.program(*context.example(9)))


class KilledAt:
    """A score that ends the process, as it were, at its n-th call."""

    def __init__(self, call):
        self.left = [None] * call

    def __call__(self, model, split):
        if not self.left:
            raise KeyboardInterrupt
        self.left.pop()
        return top1(model, split)


def test_training_that_was_killed_goes_on_to_the_same_bits(program, context, store):
    steps = [Magnitude(), FineTune(epochs=4, learning_rate=0.01)]
    whole = apply(clone(program), steps, replace(context, score=KilledAt(100)))
    with pytest.raises(KeyboardInterrupt):
        apply(clone(program), steps, replace(context, score=KilledAt(2 + 1 + 2)), store)  # in the third epoch
    left = KilledAt(100)
    resumed = apply(clone(program), steps, replace(context, score=left), store)
    assert 100 - len(left.left) == 1 + 2 + 1, "two epochs were left, and scores before and after"
    assert torch.equal(resumed.program(*context.example(9)), whole.program(*context.example(9)))


def test_a_step_that_breaks_its_contract_is_not_kept(program, context, store):
    for _ in range(2):
        with pytest.raises(LaconicError, match="changed nothing"):
            apply(clone(program), [bad_step(lambda program: None)], context, store)
