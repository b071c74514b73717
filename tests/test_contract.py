"""The contract of every step: one battery over everything that the families list, so that a new step is covered by being listed."""

import ast
import copy
import dataclasses
import hashlib
import importlib
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

import laconic
from laconic.context import Context
from laconic.contract import fingerprint
from laconic.data import Split, Splits
from laconic.distill import Response
from laconic.distill.teachers import Teacher
from laconic.errors import LaconicError, NotApplicableError
from laconic.program import Mask, Uniform, bake, capture, clone, load, packed, packed_bytes, read, save
from laconic.program.pack import unpacked
from laconic.program.represent import edges, represented, tensor_names
from laconic.recipe import FAMILIES, apply, compress, parse, plain, step_classes
from laconic.step import settings, step_name
from laconic.train import Training, fit
from laconic.tune import FineTune
from networks import NETWORKS, captured

STEPS = step_classes()

# Sparser than prune.Magnitude's half, in little time
SPARSE = {"sparsity": 0.6, "epochs": 2, "batch": 32, "every": 5, "autocast": "off"}

# Settings for the battery, where the defaults would take long or change too little
SETTINGS = {
    **{f"distill.{name}": {"epochs": 1, "learning_rate": 0.02, "autocast": "off"} for name in ("BornAgain", "Exits", "Feature", "Mutual")},
    "distill.Relation": {"epochs": 1, "learning_rate": 0.02, "autocast": "off"},
    "distill.Response": {"epochs": 1, "learning_rate": 0.02, "autocast": "off"},
    "factorize.CP": {"rank": 6},  # fitting one takes long, and a budget looks at many
    "factorize.Gradual": {"macs": 0.99, "pulled": Training(epochs=2, batch=32, learning_rate=0.02, autocast="off")},
    "factorize.Mixed": {"macs": 0.99, "training": Training(epochs=1, batch=32, learning_rate=0.02, autocast="off")},
    "factorize.SVD": {"macs": 0.99},
    "factorize.Tucker": {"macs": 0.99},
    "prune.Filters": {"ratio": 0.3},
    "prune.Gradual": SPARSE,
    "prune.Heads": {"ratio": 0.5},
    "prune.Movement": {**SPARSE, "epochs": 6},  # its scores are a sum over batches, noise at first
    "prune.NofM": {"indivisible": "leave"},
    "prune.Rounds": {"sparsity": 0.6, "rounds": 2, "epochs": 1, "batch": 32, "autocast": "off"},
    "prune.Layers": {"training": Training(epochs=2, batch=32, learning_rate=0.02, autocast="off")},
    "quantize.EntropyPenalized": {"epochs": 1, "autocast": "off"},
    "quantize.Training": {"epochs": 1, "autocast": "off"},
    "quantize.Mixed": {"rounding": "nearest"},
    "tune.FineTune": {"epochs": 1, "learning_rate": 0.02, "autocast": "off"},
}

# Settings other than the defaults, to be carried through files
OTHER_SETTINGS = {
    "distill.BornAgain": {"generations": 3, "stays": "best", "loss": "decoupled", "others": 4.0},
    "distill.Exits": {"exits": 2, "inside": 0.1, "epochs": 3, "alpha": 0.5},
    "distill.Feature": {"loss": "hint", "layers": (("stem", "stem"),), "weight": 2.0, "teachers": (Teacher("t.safetensors"),), "views": 3},
    "distill.Mutual": {"students": 3, "stays": "first", "peers": (Teacher("zoo:resnet20", Path("r20.safetensors")),)},
    "distill.Relation": {"loss": "contrast", "length": 64, "sharpness": 0.2, "cache": Path("answers")},
    "distill.Student": {"model": "zoo:resnet20", "weights": Path("r20.safetensors")},
    "distill.Response": {"temperature": 2.5, "alpha": 0.25, "epochs": 3, "warmup": 0.1},
    "factorize.CP": {"rank": 3, "exclude": ("stem",)},
    "factorize.Gradual": {"bytes": 0.6, "pull": "nuclear", "begin": 0.1, "kinds": ("spatial",), "pulled": Training(epochs=3, ema=0.9)},
    "factorize.Mixed": {"bytes": 0.75, "kinds": ("svd", "cp"), "examples": 32, "training": Training(epochs=3, ema=0.9)},
    "factorize.SVD": {"rank": "variational", "split": "spatial", "whiten": False},
    "factorize.Tucker": {"latency": 0.8, "faster": False, "include": ("left",)},
    "prune.Filters": {"macs": 0.6, "importance": "l2", "rounds": 2, "training": Training(epochs=2, ema=0.9), "exclude": ("head",)},
    "prune.Gradual": {"sparsity": 0.95, "initial": 0.5, "begin": 0.1, "end": 0.5, "straight_through": True, "epochs": 3, "alpha": 0.0},
    "prune.Heads": {"ratio": 0.25, "scope": "group", "importance": "fisher", "include": ("query",)},
    "prune.Layers": {"macs": 0.8, "examples": 64, "training": Training(optimizer="adamw"), "exclude": ("stem",)},
    "prune.Magnitude": {"sparsity": 0.75, "scope": "global", "exclude": ("head", "stem*")},
    "prune.Movement": {"sparsity": 0.95, "scope": "global", "begin": 0.1, "end": 0.5, "epochs": 3, "alpha": 0.0},
    "prune.NofM": {"n": 1, "m": 8, "indivisible": "leave"},
    "prune.Rounds": {"sparsity": 0.95, "rounds": 3, "spacing": "cubic", "rescale_dropout": False, "exclude": ("head",)},
    "quantize.EntropyPenalized": {"price": 1e-5, "spacing": 0.5, "alpha": 0.5, "epochs": 2, "exclude": ("head",)},
    "prune.SparseGPT": {"sparsity": 0.75, "allocation": "sensitivity", "block": 16, "damping": 0.1, "exclude": ("head",)},
    "prune.Wanda": {"pattern": (1, 4), "include": ("left", "right")},
    "quantize.Mixed": {
        "weight_bits": (3, 5, 8),
        "activation_bits": (4, 8),
        "mac_bits": 24.5,
        "sensitivity": "curvature",
        "rounding": "nearest",
    },
    "quantize.Static": {"ranges": "percentile", "percentile": 0.99, "bias_correction": False, "include": ("left",), "weight_bits": 4},
    "quantize.Training": {"weight_bits": 2, "activation_bits": 3, "sum_bits": 4, "wide": ("left",), "alpha": 0.5, "epochs": 2},
    "quantize.WeightOnly": {"format": "int3", "granularity": "group", "group_size": 32, "symmetric": False, "exclude": ("head",)},
    "share.KMeans": {
        "bits_per_weight": 3.5,
        "granularity": "group",
        "group_size": 8,
        "importance": "fisher",
        "epochs": 2,
        "exclude": ("head",),
    },
    "tune.FineTune": {"epochs": 2, "optimizer": "adamw", "ema": 0.9, "keep": "best"},
}

# The second of the pair has nothing to do, and must say so
REFUSED = {
    *(("quantize.EntropyPenalized", name) for name in STEPS if name.startswith("quantize.")),
    *((name, "quantize.EntropyPenalized") for name in STEPS if name.startswith("quantize.")),
    ("quantize.Mixed", "quantize.Mixed"),
    ("quantize.Mixed", "quantize.Static"),
    ("quantize.Mixed", "quantize.WeightOnly"),
    ("quantize.Mixed", "prune.Layers"),
    ("quantize.Static", "quantize.Mixed"),
    ("quantize.WeightOnly", "quantize.Mixed"),
    ("quantize.Static", "quantize.Static"),
    ("quantize.Static", "quantize.WeightOnly"),
    ("quantize.Training", "quantize.Mixed"),
    ("quantize.Training", "quantize.Static"),
    ("quantize.Training", "quantize.WeightOnly"),
    ("quantize.Training", "prune.Layers"),
    ("quantize.WeightOnly", "quantize.Static"),
    ("quantize.WeightOnly", "quantize.Training"),
    ("quantize.WeightOnly", "quantize.WeightOnly"),
    *itertools.product(("prune.Gradual", "prune.Movement", "prune.Rounds"), repeat=2),
    *itertools.product(("prune.Gradual", "prune.Movement", "prune.Rounds"), ("prune.Magnitude",)),
    ("prune.NofM", "prune.NofM"),
    ("quantize.EntropyPenalized", "share.KMeans"),
    ("quantize.Mixed", "share.KMeans"),
    ("quantize.Static", "share.KMeans"),
    ("quantize.Training", "share.KMeans"),
    ("quantize.WeightOnly", "share.KMeans"),
    ("share.KMeans", "quantize.EntropyPenalized"),
    ("share.KMeans", "quantize.Mixed"),
    ("share.KMeans", "quantize.Static"),
    ("share.KMeans", "quantize.Training"),
    ("share.KMeans", "quantize.WeightOnly"),
    ("share.KMeans", "share.KMeans"),
    *itertools.product(("prune.Magnitude", "prune.SparseGPT", "prune.Wanda"), repeat=2),
    *itertools.product(("prune.Gradual", "prune.Movement", "prune.Rounds"), ("prune.SparseGPT", "prune.Wanda")),  # less sparse
    *((name, "prune.SparseGPT") for name in STEPS if name.startswith(("quantize.", "share."))),
    ("prune.Layers", "prune.Layers"),  # the network has a single block
    ("quantize.Static", "prune.Layers"),
    ("prune.Layers", "prune.Heads"),  # the block that went was the attention
}

# Steps that begin anew: how well the network does is not theirs to keep, and what is compressed cannot be drawn again
ANEW = ("distill.BornAgain", "distill.Mutual", "distill.Student")
COMPRESSED = [name for name in STEPS if name.startswith(("quantize.", "share."))]
COMPRESSED += [f"prune.{name}" for name in ("Gradual", "Magnitude", "Movement", "NofM", "Rounds", "SparseGPT", "Wanda")]
REFUSED |= set(itertools.product(COMPRESSED, ANEW))
APART = tuple(name for name in STEPS if name.startswith("factorize."))
REFUSED |= set(itertools.product(COMPRESSED, APART))

# Steps that leave a network of the kind that another does, which stands for them where others follow; they themselves follow only where one
# step of each kind of representation, or one like them, was before
KINDS = ("prune.Magnitude", "prune.Filters", "quantize.Static", "share.KMeans", "distill.Response")
ALIKE = (
    {f"distill.{name}" for name in ("BornAgain", "Exits", "Feature", "Mutual", "Relation", "Student")},  # as distill.Response
    {"factorize.CP", "factorize.Gradual", "factorize.SVD", "factorize.Tucker"},  # as factorize.Mixed
)
MASKED = {f"prune.{name}" for name in ("Gradual", "Movement", "Rounds", "SparseGPT", "Wanda")}  # as prune.Magnitude
PAIRS = [
    (first, second)
    for first, second in itertools.product(STEPS, STEPS)
    if first not in set.union(*ALIKE)
    and (second not in set.union(*ALIKE) or second in ANEW or first in KINDS)
    and (first not in MASKED or second in KINDS or second in MASKED)
    and (second not in MASKED or first in KINDS or first in MASKED)
]

# Steps that need a network of their own kind: the fixture that gives it, trained
NETWORK = {"prune.Heads": "_attending"}

# Kinds of networks (of networks.py) that steps have something to do on; on the others they must say that they have not
ONLY_ON = {
    "distill.Exits": set(NETWORKS) - {"attention", "gru", "lstm", "norms", "no-grad", "root-parameters", "buffers"},  # one value on the way
    "distill.Feature": {kind for kind in NETWORKS if kind != "buffers"},  # which has no layer before its output
    "distill.Relation": {kind for kind in NETWORKS if kind != "buffers"},
    **dict.fromkeys(
        ("factorize.CP", "factorize.Tucker"),  # for convolutions
        set(NETWORKS) - {"attention", "transformer", "gru", "lstm", "dropout", "no-grad", "buffers"},
    ),
    "prune.Filters": {kind for kind in NETWORKS if kind != "buffers"},
    "prune.Heads": {"attention", "transformer"},
    "prune.Layers": {"attention", "transformer", "depthwise"},
    "prune.NofM": {kind for kind in NETWORKS if kind not in ("buffers", "gru", "lstm")},  # of inputs that four does not divide
    "share.KMeans": {kind for kind in NETWORKS if kind != "buffers"},  # which is too small for a codebook
}

# Steps that take whole layers away, with all that was kept in them
REMOVE_LAYERS = {"prune.Layers"}

every_step = pytest.mark.parametrize("name", STEPS)


class Attending(nn.Module):
    """A transformer block over the rows of a picture of 1 x 8 x 8, for ten classes."""

    def __init__(self):
        super().__init__()
        self.embed, self.positions = nn.Linear(8, 24), nn.Parameter(torch.randn(8, 24) * 0.1)
        self.query, self.key, self.value, self.out = (nn.Linear(24, 24) for _ in range(4))
        self.norm, self.wide, self.narrow = nn.LayerNorm(24), nn.Linear(24, 48), nn.Linear(48, 24)
        self.relu, self.head = nn.ReLU(), nn.Linear(8 * 24, 10)

    def forward(self, x):
        x = self.embed(x.squeeze(1)) + self.positions
        query, key, value = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        x = x + self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        x = x + self.narrow(self.relu(self.wide(self.norm(x))))
        return self.head(x.flatten(1))

    def _heads(self, x):
        return x.view(x.shape[0], 8, 4, 6).transpose(1, 2)


@pytest.fixture(scope="session")
def _attending(splits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Attending()
    training = Training(epochs=30, batch=32, optimizer="adamw", learning_rate=0.004, autocast="off")
    fitted = fit(model, splits.train, training, validation=splits.validation)
    assert fitted.score > 0.93, "the tests below compare accuracies, which must mean something"
    return model


@pytest.fixture
def _network(request):
    """The trained network that the steps of a test apply to."""
    steps = request.node.callspec.params.values() if hasattr(request.node, "callspec") else ()
    return request.getfixturevalue(next((NETWORK[step] for step in steps if step in NETWORK), "_trained"))


@pytest.fixture(scope="session")
def _programs():
    """Programs of trained networks: each is captured once."""
    return {}


@pytest.fixture
def model(_network):
    return copy.deepcopy(_network).eval()


@pytest.fixture
def program(_network, _programs, context):
    if id(_network) not in _programs:
        _programs[id(_network)] = capture(_network, context.example())
    return clone(_programs[id(_network)])


@pytest.fixture(scope="session")
def _made():
    """What steps made: each step is taken once."""
    return {}


@pytest.fixture
def applied(_network, _made, program, context):
    """Gives what a step makes of the program, with its journal; the program in it is for reading only."""

    def made(name):
        key = id(_network), name
        if key not in _made:
            _made[key] = apply(clone(program), [make(name)], context)
        return _made[key]

    return made


@pytest.fixture
def after(applied):
    """Gives the program after a step; each test has its own."""
    return lambda name: clone(applied(name).program)


def make(name):
    return STEPS[name](**SETTINGS.get(name, {}))


def state(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def outputs(program, context):
    with torch.no_grad():
        return program(context.splits.test.batch(slice(0, 50))[0])


# What every step is


@every_step
def test_a_step_can_be_made_without_settings(name):
    assert step_name(STEPS[name]()) == name


def test_the_settings_of_this_file_belong_to_steps_that_there_are():
    assert {*SETTINGS, *OTHER_SETTINGS, *itertools.chain(*REFUSED), *NETWORK, *ONLY_ON, *REMOVE_LAYERS} <= set(STEPS)


def test_every_class_marked_as_a_step_is_listed_by_its_family():
    source = Path(laconic.__file__).parent
    found = set()
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any(isinstance(d, ast.Name) and d.id == "step" for d in node.decorator_list):
                found.add(f"{path.parent.name}.{node.name}")
    assert found == set(STEPS)


@every_step
def test_the_module_of_a_step_names_its_source(name):
    family = name.partition(".")[0]
    text = importlib.import_module(STEPS[name].__module__).__doc__
    assert text
    assert STEPS[name].__doc__
    assert STEPS[name].__call__.__doc__
    if family != "tune":  # training on labels is nobody's technique
        assert "Source:" in text


@every_step
def test_every_field_has_a_default_and_a_schema(name):
    from pydantic import TypeAdapter

    fields = {field.name for field in dataclasses.fields(STEPS[name])}
    assert set(TypeAdapter(STEPS[name]).json_schema().get("properties", {})) == fields
    assert set(settings(STEPS[name]())) == fields


@every_step
@pytest.mark.parametrize("other", [False, True], ids=["defaults", "other settings"])
def test_the_settings_survive_replace_and_yaml(name, other):
    step = STEPS[name](**(OTHER_SETTINGS.get(name, {}) if other else {}))
    assert replace(step) == step
    for field, value in OTHER_SETTINGS.get(name, {}).items():
        assert getattr(replace(STEPS[name](**OTHER_SETTINGS[name]), **{field: value}), field) == value
    [again] = parse(yaml.safe_load(yaml.safe_dump(plain([step]))))
    assert again == step
    assert hash(again) == hash(step)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(step, dataclasses.fields(step)[0].name, None)


@every_step
def test_the_battery_covers_settings_other_than_the_defaults(name):
    assert STEPS[name](**OTHER_SETTINGS.get(name, {})) != STEPS[name]() or not dataclasses.fields(STEPS[name])


def test_the_fingerprint_of_a_network_as_it_came_is_the_one_on_receipts(program):
    digest = hashlib.sha256(str(program.graph).encode())
    for name in tensor_names(program):
        array = read(program, name).detach().numpy()
        digest.update(f"{name} {array.shape} None True None".encode() + f"values {array.dtype}".encode() + array.tobytes())
    assert fingerprint(program) == digest.hexdigest()


# What every step does


@every_step
def test_the_original_model_is_unchanged(name, model, context):
    model.relu.train()
    before, flags = state(model), [module.training for module in model.modules()]
    names = [(name, parameter.requires_grad, parameter.grad is None) for name, parameter in model.named_parameters()]
    made = compress(model, [make(name)], context).program
    with torch.no_grad():
        for tensor in [*made.parameters(), *made.buffers()]:
            tensor.zero_()  # nor do both share memory
    assert same(before, state(model))
    assert flags == [module.training for module in model.modules()]
    assert names == [(name, parameter.requires_grad, parameter.grad is None) for name, parameter in model.named_parameters()]


@every_step
def test_the_teacher_and_the_callers_randomness_are_left_as_they_were(name, program, make_context):
    teacher, randomness = clone(program), torch.get_rng_state()
    before, code = state(teacher), teacher.code
    apply(program, [make(name)], make_context(teacher=teacher))
    assert same(before, state(teacher))
    assert code == teacher.code
    assert torch.equal(randomness, torch.get_rng_state())


@every_step
def test_the_output_keeps_its_shape_for_every_batch(name, after, context):
    made = after(name)
    for batch in (1, 2, 5):
        output = made(*context.example(batch))
        assert output.shape == (batch, 10)
        assert output.isfinite().all()


@every_step
def test_the_same_seed_gives_the_same_bits(name, program, make_context):
    copies = [clone(program), clone(program)]
    made = []
    for number, each in enumerate(copies):
        torch.manual_seed(number)  # the caller's chance is no part of it
        made.append(apply(each, [make(name)], make_context(seed=3)))
    assert same(state(made[0].program), state(made[1].program))
    assert made[0].program.code == made[1].program.code
    entries = [replace(entry, seconds=0) for one in made for entry in one.journal]
    assert entries[0] == entries[1]


@every_step
def test_the_accuracy_stays_within_reason(name, applied):
    [entry] = applied(name).journal
    assert entry.score_before > 0.93
    if name in ANEW:
        return
    assert entry.score_after > entry.score_before - 0.1


@every_step
def test_the_journal_says_what_was_done(name, applied):
    [entry] = applied(name).journal
    assert (entry.step, entry.settings) == (name, settings(make(name)))
    assert entry.notes
    assert all(note.strip() for note in entry.notes)
    assert 0 < entry.bytes_after <= entry.bytes_before
    assert 0 < entry.macs_after <= entry.macs_before
    assert entry.seconds > 0


@every_step
def test_a_step_that_trains_says_so(name, program, untrained_context):
    if getattr(make(name), "trains", False):
        with pytest.raises(LaconicError, match="no training split"):
            make(name)(program, replace(untrained_context, teacher=clone(program)))
    else:
        apply(program, [make(name)], untrained_context)


@pytest.mark.parametrize("name", [name for name in STEPS if "training" in settings(STEPS[name]())])
def test_a_step_that_may_train_says_so_when_it_is_to(name, program, untrained_context):
    step = replace(make(name), training=Training(epochs=1))
    assert step.trains
    assert not replace(step, training=None).trains or "pulled" in settings(step)  # which trains in any case
    before = fingerprint(program)
    with pytest.raises(LaconicError, match="no training split"):
        step(program, replace(untrained_context, teacher=clone(program)))
    assert fingerprint(program) == before


# Together


def gains(program):
    """Where masks hold zeros, and the grids that weights lie on."""
    zeros = {n: torch.stack([~f.keep for f in forms if isinstance(f, Mask)]).any(0) for n, forms in represented(program) if masks(forms)}
    grids = {n: next(f for f in reversed(forms) if isinstance(f, Uniform)) for n, forms in represented(program) if uniform(forms)}
    return zeros, grids


def masks(forms):
    return any(isinstance(form, Mask) for form in forms)


def uniform(forms):
    return any(isinstance(form, Uniform) for form in forms)


def stored(program, name):
    """Return a represented tensor as it is stored, before its representations."""
    path, _, attribute = name.rpartition(".")
    return program.get_submodule(path).parametrizations[attribute].original.detach()


def kept_block(before, after):
    """Return the positions of each axis that a cut has left, found by the values that are still there; a few may be equal by chance."""
    stays = torch.isin(before, after).float()
    axes = range(before.ndim)
    return torch.meshgrid(*[(stays.movedim(axis, 0).flatten(1).mean(1) > 0.2).nonzero()[:, 0] for axis in axes], indexing="ij")


def on_grid(values, grid):
    shape = [1] * values.ndim
    if grid.axis is not None:
        shape[grid.axis] = -1
    codes = values / grid.scale.abs().reshape(shape) + grid.zero_point.reshape(shape)
    return (codes - codes.round()).abs().max() < 1e-3 and codes.min() > -(2 ** (grid.bits - 1)) - 0.5 and codes.max() < 2**grid.bits


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_step_composes_with_each_other_and_keeps_its_gains(first, second, after, context, tmp_path):
    program = after(first)
    zeros, _ = gains(program)
    bits = {name: grid.bits for name, grid in gains(program)[1].items()}
    before = {name: stored(program, name) for name in zeros}
    if (first, second) in REFUSED:
        with pytest.raises(LaconicError, match=r"already|nothing|no block may go|no attention head"):
            apply(program, [make(second)], context)
        return
    made = apply(program, [make(second)], replace(context, teacher=clone(program))).program
    later, grids = gains(made)
    there = tensor_names(made)
    assert second in REMOVE_LAYERS or {*zeros, *bits} <= set(there)
    for name in zeros.keys() & set(there):
        held, now = zeros[name], stored(made, name)
        if now.shape != held.shape:  # cut: the part of the old zeros where the values that stay came from
            block = kept_block(before[name], now)
            assert torch.equal(before[name][block], now)
            held = held[block]
        assert (later[name] >= held).all(), f"{name} has entries that are free again"
        assert not read(made, name)[held].any(), f"{name} has entries at places that were pruned"
    assert {name: grids[name].bits for name in bits if name in there} == {name: bits[name] for name in bits if name in there}
    for name, grid in grids.items():
        assert on_grid(read(made, name).detach(), grid), f"{name} has left its grid"
    save(made, tmp_path / "both.safetensors")
    assert torch.equal(outputs(load(tmp_path / "both.safetensors"), context), outputs(made, context))


def test_prune_tune_quantize_and_distil_end_up_sparse_in_integers_and_accurate(program, context):
    steps = ["prune.Magnitude", "tune.FineTune", "quantize.Static", "distill.Response"]
    gentle = {"epochs": 3, "learning_rate": 0.005, "autocast": "off"}
    made = [STEPS[name](**gentle if STEPS[name] in (FineTune, Response) else {}) for name in steps]
    done = apply(program, made, context)
    zeros, grids = gains(done.program)
    for name, held in zeros.items():
        weight = read(done.program, name).detach()
        assert not weight[held].any()
        assert held.float().mean() == 0.5
        assert on_grid(weight, grids[name])
    sizes = [entry.bytes_after for entry in done.journal]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < done.journal[0].bytes_before / 5
    assert done.journal[-1].score_after > done.journal[0].score_before - 0.03
    joints = [(a.score_after, a.bytes_after, a.macs_after) for a in done.journal[:-1]]
    assert joints == [(b.score_before, b.bytes_before, b.macs_before) for b in done.journal[1:]]


# Afterwards


@every_step
def test_baking_leaves_plain_parameters_and_the_same_outputs(name, after, context):
    made = after(name)
    expected = outputs(made, context)
    kept = clone(made)
    for tensor, _ in list(represented(made)):
        bake(made, tensor)
    assert not list(represented(made))
    assert torch.equal(outputs(made, context), expected)
    assert torch.equal(outputs(kept, context), expected), "baking one copy broke the other"


@every_step
def test_a_clone_is_equal_and_independent(name, after, context):
    made = after(name)
    for again in (clone(made), copy.deepcopy(made)):
        before = outputs(made, context)
        assert torch.equal(outputs(again, context), before)
        with torch.no_grad():
            for tensor in [*again.parameters(), *again.buffers()]:
                tensor.zero_()
        assert torch.equal(outputs(made, context), before)


@every_step
def test_a_saved_program_is_loaded_to_the_same_bits(name, after, context, tmp_path):
    made = after(name)
    save(made, tmp_path / "program.safetensors")
    again = load(tmp_path / "program.safetensors")
    assert torch.equal(outputs(again, context), outputs(made, context))
    assert packed_bytes(again) == packed_bytes(made)
    assert gains(again)[0].keys() == gains(made)[0].keys()
    assert gains(again)[1].keys() == gains(made)[1].keys()


@every_step
def test_a_loaded_program_goes_on_as_the_one_in_memory(name, after, context, tmp_path):
    made = after(name)
    save(made, tmp_path / "program.safetensors")
    after = [apply(each, [make("tune.FineTune")], context).program for each in (made, load(tmp_path / "program.safetensors"))]
    assert torch.equal(*(outputs(each, context) for each in after))


@every_step
def test_the_exported_file_predicts_what_the_program_predicts(name, after, context, tmp_path):
    made = after(name)
    laconic.export(made, tmp_path / "network.onnx", example=context.example())
    inputs = context.splits.test.arrays(slice(0, 100))
    with torch.no_grad():
        expected = made(torch.from_numpy(inputs)).numpy()
    found = laconic.load(tmp_path / "network.onnx")(inputs)
    assert found.shape == expected.shape
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.99
    assert np.abs(found - expected).mean() < 0.02 * np.abs(expected).mean()


@every_step
def test_claimed_bytes_are_the_bytes_of_files_that_give_the_weights_back(name, after, context, tmp_path):
    made = after(name)
    total = 0
    for tensor in tensor_names(made):
        form = packed(made, tensor)
        arrays = {key: written_and_read(array, tmp_path / f"{tensor}.{key}") for key, array in form.arrays.items()}
        written = sum((tmp_path / f"{tensor}.{key}").stat().st_size for key in arrays)
        assert written == form.bytes
        total += written
        again = unpacked(replace(form, arrays=arrays))
        dense = read(made, tensor).detach()
        assert again.shape == dense.shape
        torch.testing.assert_close(again.to(dense.dtype), dense, rtol=1e-6, atol=0)
    grids = {id(form): form for form in edges(made).values()}.values()
    assert packed_bytes(made) == total + sum(8 for _ in grids)  # a scale and a zero point of 4 bytes for each grid on an edge


def written_and_read(array, path):
    array.tofile(path)
    return np.fromfile(path, array.dtype).reshape(array.shape)


def test_the_families_list_what_they_have_and_nothing_else():
    for family, module in FAMILIES.items():
        assert module.__name__ == f"laconic.{family}"
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(getattr(module, name).__module__.startswith(f"laconic.{family}.") for name in module.__all__)


# On networks of every kind

CLASSIFIERS = [
    kind for kind, (_, example) in NETWORKS.items() if len(example) == 1 and example[0].is_floating_point() and kind != "two-outputs"
]


def random_data(example):
    """A context of random inputs in the shape of an example, with labels of five classes."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(40, *example[0].shape[1:])).astype(np.float32)
    part = Split(inputs, generator.integers(0, 5, 40))
    return Context(Splits(part, part, part, part))


@every_step
@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # torch.export's, of recurrent layers
def test_a_step_works_on_a_network_of_every_kind(name, kind, tmp_path):
    program, example = captured(kind)
    context = random_data(example)
    if kind not in ONLY_ON.get(name, NETWORKS):
        with pytest.raises(NotApplicableError):
            apply(program, [make(name)], context)
        return
    done = apply(program, [make(name)], context)
    made, [entry] = done.program, done.journal
    inputs = context.splits.test.batch(slice(0, 7))[0]
    expected = made(inputs)
    assert expected.shape == (7, 5)
    save(made, tmp_path / "program.safetensors")
    assert torch.equal(load(tmp_path / "program.safetensors")(inputs), expected)
    assert torch.equal(clone(made)(inputs), expected)
    assert entry.bytes_after <= entry.bytes_before
    for tensor in tensor_names(made):
        dense = read(made, tensor).detach()
        torch.testing.assert_close(unpacked(packed(made, tensor)).to(dense.dtype), dense, rtol=1e-6, atol=0)
