import math
import os
import signal
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize

from laconic.data.dataset import Split
from laconic.errors import LaconicError
from laconic.numeric.rounding import consecutive_groups, per_group
from laconic.program import Uniform, capture, clone, read, represent
from laconic.program.cut import cut
from laconic.program.groups import channel_groups
from laconic.train import Epoch, Training, cross_entropy, fit, log_likelihood, loop, progress, top1, usual_score
from laconic.train.ema import exchanged, update
from laconic.train.optimizer import decays, optimizer, scales
from laconic.train.schedule import factor
from laconic.train.settings import lower_precision


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(512, 10),
    )


def digits(examples=slice(None)):
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return Split(images.reshape(-1, 1, 8, 8).astype(np.uint8)[order], labels[order], (4.9,), (6.0,)).take(examples)


def shift(inputs, generator):
    """Move each batch by a pixel at most and add noise."""
    rows, columns = torch.randint(-1, 2, (2,), generator=generator).tolist()
    return inputs.roll((rows, columns), (2, 3)) + 0.1 * torch.randn(inputs.shape, generator=generator)


TRAIN, VALIDATION = digits(slice(0, 300)), digits(slice(300, 400))
PLAIN = Training(epochs=3, batch=64)
VARIANTS = {
    "sgd": Training(epochs=4, batch=64, ema=0.9, keep="best", learning_rate=0.05),
    "adamw": Training(epochs=4, batch=64, optimizer="adamw", ema=0.9, learning_rate=0.01, schedule="one-cycle", clip=1.0),
    "channels last": Training(epochs=4, batch=64, ema=0.9, learning_rate=0.05, channels_last=True),
    "best": Training(epochs=4, batch=64, keep="best", patience=3, learning_rate=0.05, autocast="off"),
}


def train(name, model=None, **more):
    return fit(model or network(), TRAIN, VARIANTS[name], validation=VALIDATION, augment=shift, **more)


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def scores(fitted):
    return [(epoch.loss, epoch.score, epoch.learning_rate) for epoch in fitted.history]


class Killed(BaseException):
    pass


def stop_at(batch):
    def stop(done, total):
        if done == batch:
            raise Killed

    return stop


# What training reaches


def test_a_small_network_learns_the_digits_within_thirty_seconds():
    model, begun = network(), time.monotonic()
    training = Training(epochs=15, batch=64, learning_rate=0.05, ema=0.99)
    fitted = fit(model, digits(slice(0, 1297)), training, validation=digits(slice(1297, None)))
    assert fitted.score >= 0.98
    assert time.monotonic() - begun < 30
    assert fitted.score == top1(model, digits(slice(1297, None))), "the score is of the weights that stay"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_lowers_the_loss(name):
    fitted = train(name)
    assert fitted.history[-1].loss < 0.7 * fitted.history[0].loss


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    models = [network() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        train("sgd", model, seed=seed)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_training_neither_depends_on_nor_disturbs_the_callers_randomness():
    models = [network(), network()]
    for number, model in enumerate(models):
        torch.manual_seed(number)
        state = torch.get_rng_state()
        train("sgd", model)
        assert torch.equal(state, torch.get_rng_state())
    assert same(*models)


def test_the_model_ends_in_eval_mode_without_gradients():
    model = network()
    fit(model, TRAIN, PLAIN)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_step_is_that_of_nesterov_momentum_written_out():
    weight = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    model, rate, decay, momentum = nn.Linear(2, 2, bias=False), 0.1, 0.01, 0.9
    model.weight.data = weight.clone()
    training = Training(epochs=2, batch=4, learning_rate=rate, weight_decay=decay, momentum=momentum, schedule="constant", autocast="off")
    inputs = np.float32([[1, 0], [0, 1], [1, 1], [2, 1]])
    fit(model, Split(inputs, np.array([0, 1, 0, 1])), training, loss=lambda model, inputs, labels: model(inputs).sum())
    velocity, summed = torch.zeros(2, 2), torch.from_numpy(inputs).sum(0).expand(2, 2)
    for _ in range(2):
        gradient = summed + decay * weight
        velocity = momentum * velocity + gradient
        weight = weight - rate * (gradient + momentum * velocity)
    torch.testing.assert_close(model.weight.data, weight)


# What is trained


def test_frozen_parameters_stay_to_the_bit():
    model = network()
    model[0].requires_grad_(False)
    before = deepcopy(model)
    fit(model, TRAIN, PLAIN)
    assert torch.equal(before[0].weight, model[0].weight)
    assert not torch.equal(before[3].weight, model[3].weight)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(LaconicError, match="nothing to train"):
        fit(network().requires_grad_(False), TRAIN, PLAIN)


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


def test_parametrized_weights_train_and_keep_their_zeros():
    model = network()
    parametrize.register_parametrization(model[3], "weight", Masked((torch.rand(32, 16, 3, 3) > 0.5).float()))
    before = model[3].weight.detach().clone()
    fit(model, TRAIN, replace(PLAIN, ema=0.9))
    assert not torch.equal(before, model[3].weight)
    assert torch.equal(before == 0, model[3].weight == 0)


def test_tied_parameters_are_stepped_once_and_stay_tied():
    def tied():
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        model[1].weight = model[0].weight
        return model

    model = tied()
    start = model[0].weight.detach().clone()
    training = Training(epochs=1, batch=2, learning_rate=0.1, momentum=0.0, weight_decay=0.5, schedule="constant")
    split = Split(np.zeros((2, 2), np.float32), np.array([0, 1]))
    fit(model, split, training)
    assert model[0].weight is model[1].weight
    torch.testing.assert_close(model[0].weight.data, start * (1 - 0.1 * 0.5))


class Program(GraphModule):
    """A captured network that switches modes by the flag of its batch norms, as laconic.program does."""

    def train(self, mode=True):
        self.training = mode
        for node in self.graph.nodes:
            if node.target == torch.ops.aten.batch_norm.default:
                node.update_arg(5, mode)
        self.recompile()
        return self

    def eval(self):
        return self.train(False)


@pytest.mark.filterwarnings("ignore")
def test_a_captured_program_trains_like_the_module_that_it_came_from():
    module = network()
    del module[7]  # the dropout
    captured = torch.export.export(module.eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()
    program = Program(captured, captured.graph)
    program.requires_grad_()
    for model in (module, program):
        fit(model, TRAIN, replace(PLAIN, ema=0.9))
    assert same(module, program)
    assert int(program.get_buffer("1.num_batches_tracked")) == 3 * 5


def test_weight_decay_leaves_biases_norms_and_scales_alone():
    shapes = {(8,): False, (): False, (8, 1, 1, 1): False, (1,): False, (8, 4): True, (1, 4): True, (8, 1, 3, 3): True}
    assert {shape: decays(torch.zeros(shape)) for shape in shapes} == shapes


def test_a_parameter_that_gets_its_first_gradient_late_is_trained():
    model = nn.ModuleList([nn.Linear(64, 10), nn.Linear(64, 10)])
    late = deepcopy(model[1])
    turns = []

    def loss(model, inputs, labels):
        turns.append(len(turns) >= 3)
        return sum(layer(inputs.flatten(1)).float().sum() for layer in model[: 1 + turns[-1]])

    training = Training(epochs=1, batch=100, learning_rate=0.1, schedule="constant", weight_decay=0.0, autocast="off")
    fit(model, digits(slice(0, 400)), training, loss=loss)
    step = 0.1 * 100 * (1 + 0.9)  # a single step: rate x gradient of the bias x Nesterov's first factor
    torch.testing.assert_close(late.bias - model[1].bias, torch.full((10,), step))


def test_gradients_that_the_caller_left_do_not_count():
    clean, used = network(), network()
    cross_entropy(used, *TRAIN.batch(slice(0, 8))).backward()
    used[1].load_state_dict(clean[1].state_dict())
    used[4].load_state_dict(clean[4].state_dict())
    for model in (clean, used):
        fit(model, TRAIN, PLAIN)
    assert same(clean, used)


# Batches, schedules, averages


@pytest.mark.parametrize(("examples", "batch", "sizes"), [(129, 64, [64, 64]), (130, 64, [64, 64, 2]), (3, 1, [1, 1, 1]), (1, 64, [1])])
def test_a_last_batch_of_one_example_is_left_out_unless_it_is_the_only_one(examples, batch, sizes):
    seen = []

    def loss(model, inputs, labels):
        seen.append(len(inputs))
        return model(inputs.flatten(1)).sum()

    fit(nn.Linear(64, 2), TRAIN.take(slice(0, examples)), Training(epochs=1, batch=batch), loss=loss)
    assert seen == sizes


def test_every_epoch_shows_every_example_once_in_another_order():
    seen = []

    def loss(model, inputs, labels):
        seen.extend(inputs[:, 0].tolist())
        return model(inputs).sum()

    numbers = np.arange(100, dtype=np.float32)[:, None]
    fit(nn.Linear(1, 1), Split(numbers, np.zeros(100, np.int64)), Training(epochs=2, batch=30, learning_rate=1e-9), loss=loss)
    assert sorted(seen[:100]) == sorted(seen[100:]) == numbers[:, 0].tolist()
    assert seen[:100] != seen[100:]


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
@pytest.mark.parametrize("warmup", [None, 0.0, 0.2])
def test_decaying_schedules_rise_to_one_fall_to_zero_and_have_no_jump(schedule, warmup):
    factors = [factor(schedule, share / 1000, warmup) for share in range(1001)]
    top = factors.index(max(factors))
    assert max(factors) == pytest.approx(1)
    assert factors[-1] == pytest.approx(0)
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert max(abs(a - b) for a, b in pairwise(factors)) < 0.01


def test_the_learning_rate_follows_the_schedule_batch_by_batch():
    fitted = fit(network(), TRAIN, Training(epochs=2, batch=64, learning_rate=0.1))
    expected = [0.1 * (1 + math.cos(math.pi * (batch + 0.5) / 10)) / 2 for batch in (4, 9)]
    assert [epoch.learning_rate for epoch in fitted.history] == pytest.approx(expected)


def test_the_average_is_the_weighted_sum_of_all_weights_so_far():
    parameters = {"weight": nn.Parameter(torch.tensor([1.0]))}
    averages = {"weight": torch.tensor([1.0])}
    expected = 1.0
    for done in range(1, 50):
        parameters["weight"].data.fill_(done)
        update(averages, parameters, 0.5, done)
        decay = min(0.5, (1 + done) / (10 + done))
        expected = decay * expected + (1 - decay) * done
    assert averages["weight"].item() == pytest.approx(expected)


def test_averages_take_the_parameters_place_for_a_block_and_only_then():
    parameters, averages = {"weight": nn.Parameter(torch.tensor([1.0]))}, {"weight": torch.tensor([2.0])}
    with exchanged(averages, parameters):
        assert (parameters["weight"].item(), averages["weight"].item()) == (2, 1)
    assert (parameters["weight"].item(), averages["weight"].item()) == (1, 2)


def test_the_averaged_weights_are_the_ones_that_stay():
    plain, averaged, scored = network(), network(), []

    def score(model, split):
        scored.append(deepcopy(model))
        assert not model.training
        return 0.5

    fit(plain, TRAIN, PLAIN)
    fit(averaged, TRAIN, replace(PLAIN, ema=0.99), validation=VALIDATION, score=score)
    assert same(averaged, scored[-1]), "they are what was scored"
    assert not torch.equal(plain[0].weight, averaged[0].weight)
    assert torch.equal(plain[1].running_mean, averaged[1].running_mean), "training itself is the same"


def test_clipping_bounds_the_step():
    model, before = network(), network()
    fit(model, TRAIN, Training(epochs=1, batch=300, learning_rate=1.0, momentum=0.0, weight_decay=0.0, schedule="constant", clip=0.25))
    moved = [(a - b).square().sum() for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    assert torch.stack(moved).sum().sqrt().item() == pytest.approx(0.25, rel=1e-3)


# Scores, keeping and stopping


def scored(*values):
    values = iter(values)
    return lambda model, split: next(values)


def test_the_best_epochs_weights_are_kept():
    snapshots = []
    model = network()

    def score(model, split):
        snapshots.append(deepcopy(model))
        return [0.1, 0.7, 0.7, 0.3][len(snapshots) - 1]

    fitted = fit(model, TRAIN, Training(epochs=4, keep="best", ema=0.9), validation=VALIDATION, score=score)
    assert same(model, snapshots[1])
    assert (fitted.score, fitted.best) == (0.7, 0.7)


def test_the_last_epochs_weights_are_kept_unless_told_otherwise():
    fitted = fit(network(), TRAIN, PLAIN, validation=VALIDATION, score=scored(0.1, 0.7, 0.3))
    assert (fitted.score, fitted.best) == (0.3, 0.7)


def test_training_stops_when_patience_ends():
    fitted = fit(network(), TRAIN, Training(epochs=9, patience=2), validation=VALIDATION, score=scored(0.1, 0.5, 0.4, 0.5, 0.9))
    assert fitted.epochs == len(fitted.history) == 4


@pytest.mark.parametrize(("settings", "words"), [({"keep": "best"}, "keep='best'"), ({"patience": 3}, "patience")])
def test_what_compares_scores_is_refused_without_a_validation_split(settings, words):
    with pytest.raises(LaconicError, match=f"{words} compares scores of a validation split"):
        fit(network(), TRAIN, Training(**settings))


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(LaconicError, match="the validation score is nan"):
        fit(network(), TRAIN, PLAIN, validation=VALIDATION, score=scored(math.nan))


def test_without_a_validation_split_nothing_is_scored():
    fitted = fit(network(), TRAIN, PLAIN)
    assert (fitted.epochs, fitted.score, fitted.best) == (3, None, None)


def test_top1_counts_right_answers_across_uneven_batches():
    split = Split(np.eye(5, dtype=np.float32), np.array([0, 1, 2, 0, 0]))
    assert top1(nn.Identity(), split, batch=2) == 3 / 5


def test_sequences_are_learned_and_scored_at_every_position():
    chances = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], [[0.2, 0.2, 0.6], [0.3, 0.3, 0.4]]])
    split = Split(chances.log().numpy(), np.array([[0, 1], [1, 2]]))
    mean = math.log(0.5 * 0.8 * 0.2 * 0.4) / 4
    assert log_likelihood(nn.Identity(), split, batch=1) == pytest.approx(mean)
    assert float(cross_entropy(nn.Identity(), *split.batch(slice(None)))) == pytest.approx(-mean)
    assert top1(nn.Identity(), split) == 3 / 4


def test_the_usual_score_is_top1_of_classes_and_the_likelihood_of_sequences():
    scores, labels = torch.randn(4, 3).numpy(), np.array([0, 1, 2, 0])
    classes, sequences = Split(scores, labels), Split(scores.reshape(2, 2, 3), labels.reshape(2, 2))
    assert usual_score(nn.Identity(), classes) == top1(nn.Identity(), classes)
    assert usual_score(nn.Identity(), sequences) == log_likelihood(nn.Identity(), sequences)


def test_a_network_learns_to_predict_the_next_token():
    tokens = np.arange(9 * 64).reshape(64, 9) % 7
    train = Split(tokens[:, :-1], tokens[:, 1:])
    model = nn.Sequential(nn.Embedding(7, 16), nn.Linear(16, 7))
    fitted = fit(model, train, Training(epochs=10, batch=8, learning_rate=0.5), validation=train)
    assert fitted.score > math.log(0.9)


def test_label_smoothing_is_a_partial():
    inputs, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    smooth = partial(cross_entropy, smoothing=0.1)(nn.Identity(), inputs, labels)
    target = 0.9 * torch.eye(3)[labels] + 0.1 / 3
    torch.testing.assert_close(smooth, -(target * inputs.log_softmax(1)).sum(1).mean())


# Settings and failures


WRONG = {"epochs": 0, "batch": 0, "learning_rate": 0, "optimizer": "lamb", "momentum": 1, "weight_decay": -1, "schedule": "step"}
WRONG |= {"warmup": 1, "ema": 1, "patience": 0, "keep": "first", "clip": 0, "autocast": "fp8", "lr": 0.1}


@pytest.mark.parametrize(("name", "value"), [*WRONG.items(), ("learning_rate", math.inf)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValidationError, match=name):
        Training(**{name: value})


def test_a_loss_that_is_not_finite_is_named_with_its_place_and_a_remedy():
    def loss(model, inputs, labels):
        loss.calls += 1
        return cross_entropy(model, inputs, labels) * (math.nan if loss.calls == 8 else 1.0)

    loss.calls = 0
    with pytest.raises(LaconicError, match=r"the loss is nan in batch 3 of 5 of epoch 2, at learning rate .*; try learning_rate=0.001,"):
        fit(network(), TRAIN, PLAIN, loss=loss)


def test_bfloat16_is_used_when_told_and_master_weights_stay_float32():
    types = []

    def loss(model, inputs, labels):
        outputs = model(inputs)
        types.append(outputs.dtype)
        return nn.functional.cross_entropy(outputs.float(), labels)

    model = network()
    for choice in ("bfloat16", "off"):
        fit(model, TRAIN, replace(PLAIN, epochs=1, autocast=choice), loss=loss)
    assert types == 5 * [torch.bfloat16] + 5 * [torch.float32]
    assert model[0].weight.dtype == torch.float32
    assert lower_precision("auto", torch.device("cpu")) == torch.cpu._is_avx512_bf16_supported()


def test_callbacks_hear_of_every_batch_and_every_epoch():
    batches, epochs = [], []
    fitted = fit(network(), TRAIN, PLAIN, after_batch=lambda done, total: batches.append((done, total)), after_epoch=epochs.append)
    assert batches == [(done, 15) for done in range(1, 16)]
    assert tuple(epochs) == fitted.history


def test_progress_is_silent_where_stderr_is_no_terminal(capfd):
    fit(network(), TRAIN, replace(PLAIN, epochs=1), progress="fine-tuning")
    assert capfd.readouterr() == ("", "")


def test_progress_shows_epoch_loss_and_score_on_a_terminal(monkeypatch, capfd):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    fit(network(), TRAIN, replace(PLAIN, epochs=2), validation=VALIDATION, progress="tune")
    out, err = capfd.readouterr()
    assert out == ""
    assert "tune" in err
    assert "epoch 2/2, loss" in err
    assert "score" in err


# Interruption: the same call continues to the same bits


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("batch", [3, 5, 7, 20])
@pytest.mark.parametrize("seconds", [0.0, 300.0])
def test_an_interrupted_training_continues_to_the_same_bits(name, batch, seconds, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", seconds)
    whole, part = network(), network()
    expected = train(name, whole)
    monkeypatch.setattr(loop.state, "name", lambda work: "training.safetensors")  # the callback that interrupts is no part of the work
    with pytest.raises(Killed):
        train(name, part, folder=tmp_path, after_batch=stop_at(batch))
    again = network()
    fitted = train(name, again, folder=tmp_path)
    assert same(whole, again)
    assert scores(fitted) == scores(expected)
    assert (fitted.score, fitted.best) == (expected.score, expected.best)


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch; torch.set_num_threads({threads})
import test_train
from pathlib import Path
from laconic import files
from laconic.train import loop

name, how, at, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
loop._CHECKPOINT_SECONDS = 0.0 if how == "within" else 300.0
calls = []

def killing(function):
    def counted(*arguments, **named):
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return counted

if how == "writing":
    files.os.fsync = killing(files.os.fsync)
else:
    loop._step = killing(loop._step)
model = test_train.network()
test_train.train(name, model, folder=folder)
torch.save(model.state_dict(), folder / "done.pt")
"""


def run_script(*arguments):
    script = SCRIPT.format(tests=str(Path(__file__).parent), threads=torch.get_num_threads())
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=120, check=False)


@pytest.mark.parametrize(("name", "how", "at"), [("sgd", "between", 12), ("adamw", "within", 9), ("best", "writing", 3)])
def test_a_process_killed_with_sigkill_continues_to_the_same_bits(name, how, at, tmp_path):
    killed = run_script(name, how, at, tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(tmp_path.glob("training-*.safetensors")), "there is a checkpoint to continue from"
    continued = run_script(name, how, 10**9, tmp_path)
    assert continued.returncode == 0, continued.stderr
    whole = network()
    train(name, whole)
    found = torch.load(tmp_path / "done.pt", weights_only=True)
    assert all(torch.equal(tensor, found[name]) for name, tensor in whole.state_dict().items())


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch):
    first, second = network(), network()
    expected = train("sgd", first, folder=tmp_path)
    monkeypatch.delattr(loop, "_step")
    assert train("sgd", second, folder=tmp_path) == expected
    assert same(first, second)
    assert not second.training


def opposite(model, split):
    """Score the first epoch best."""
    return -top1(model, split)


def test_the_best_epoch_is_kept_though_the_training_was_interrupted_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.state, "name", lambda work: "training.safetensors")
    whole, part, again = network(), network(), network()
    expected = train("sgd", whole, score=opposite)
    assert expected.score > expected.history[-1].score
    with pytest.raises(Killed):
        train("sgd", part, score=opposite, folder=tmp_path, after_batch=stop_at(18))
    train("sgd", again, score=opposite, folder=tmp_path)
    assert same(whole, again)


def test_an_epoch_interrupted_while_it_is_scored_is_scored_again(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop.state, "name", lambda work: "training.safetensors")

    def interrupted(model, split):
        raise Killed

    with pytest.raises(Killed):
        train("sgd", folder=tmp_path, score=interrupted)
    assert scores(train("sgd", folder=tmp_path)) == scores(train("sgd"))


@dataclass(frozen=True)
class Smoothed:
    smoothing: float

    def __call__(self, model, inputs, labels):
        return cross_entropy(model, inputs, labels, self.smoothing)


def test_a_checkpoint_of_other_work_is_not_continued(tmp_path):
    fresh = {"folder": tmp_path, "validation": VALIDATION}
    fit(network(), TRAIN, PLAIN, **fresh)
    fit(network(), TRAIN, replace(PLAIN, learning_rate=0.02), **fresh)
    fit(network(), TRAIN, PLAIN, seed=1, **fresh)
    fit(network(1), TRAIN, PLAIN, **fresh)
    fit(network(), digits(slice(1, 301)), PLAIN, **fresh)
    fit(network(), TRAIN, PLAIN, loss=Smoothed(0.1), **fresh)
    fit(network(), TRAIN, PLAIN, loss=Smoothed(0.2), **fresh)
    fit(network(), TRAIN, PLAIN, loss=partial(cross_entropy, smoothing=0.1), **fresh)
    fit(network(), TRAIN, PLAIN, augment=shift, **fresh)
    fit(network(), TRAIN, PLAIN, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 10


def test_checkpoints_are_safetensors_and_hold_every_section(tmp_path):
    train("sgd", folder=tmp_path)
    (path,) = tmp_path.iterdir()
    assert {name.split("/")[0] for name in load_file(path)} == {"model", "averages", "best", "optimizer", "random"}


def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path):
    train("sgd", folder=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(LaconicError, match=r"training-.* is damaged .*; delete it"):
        train("sgd", folder=tmp_path)


def test_buffers_outside_the_state_dict_are_continued_too(tmp_path, monkeypatch):
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(64, 10)
            self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=False)

        def forward(self, inputs):
            self.seen += self.training
            return super().forward(inputs.flatten(1))

    def model():
        torch.manual_seed(0)
        return Counting()

    monkeypatch.setattr(loop.state, "name", lambda work: "training.safetensors")
    with pytest.raises(Killed):
        fit(model(), TRAIN, PLAIN, folder=tmp_path, after_batch=stop_at(12))
    again = model()
    fit(again, TRAIN, PLAIN, folder=tmp_path)
    assert int(again.seen) == 15


def test_the_optimizer_names_each_parameter_once_and_decays_weights_only():
    model = network()
    groups = optimizer(list(model.parameters()), replace(PLAIN, weight_decay=0.1)).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(3, 0.1), (5, 0.0)]


def test_a_scale_for_each_group_of_weights_does_not_decay():
    model = program()
    weight = read(model, "3.weight")
    group = consecutive_groups(tuple(weight.shape[1:]), groups=9)
    represent(model, "3.weight", Uniform(torch.rand(len(weight), 9), bits=4, axis=0, group=group))
    assert scales(model) == {model.get_parameter(SCALE)}
    decayed, others = optimizer(list(model.parameters()), replace(PLAIN, weight_decay=0.1), scales(model)).param_groups
    assert any(parameter is model.get_parameter(SCALE) for parameter in others["params"])
    assert any(parameter is model.get_parameter("3.parametrizations.weight.original") for parameter in decayed["params"])


def test_an_epoch_is_plain_data():
    epoch = fit(network(), TRAIN, replace(PLAIN, epochs=1)).history[0]
    assert isinstance(epoch, Epoch)
    assert epoch.number == 1
    assert epoch.seconds > 0


# Cuts while training

EVEN, FIRST = list(range(0, 16, 2)), list(range(20))
KEEP = {"0.weight[0]": EVEN, "3.weight[0]": FIRST}
READ = [16 * channel + position for channel in FIRST for position in range(16)]  # columns of the linear layer that read the last channels
SLICED = {  # parameter -> what stays, by hand
    "0.weight": lambda t: t[EVEN],
    "1.weight": lambda t: t[EVEN],
    "1.bias": lambda t: t[EVEN],
    "3.weight": lambda t: t[FIRST][:, EVEN],
    "4.weight": lambda t: t[FIRST],
    "4.bias": lambda t: t[FIRST],
    "8.weight": lambda t: t[:, READ],
    "8.bias": lambda t: t,
}


def program(module=None):
    return capture((module or network()).eval(), (torch.zeros(2, 1, 8, 8),))


def cut_at(batch, keep=None, stop=None):
    """Cut after a batch, and be killed after another."""

    def after(done, total):
        if done == stop:
            raise Killed
        return (keep or KEEP) if done == batch else None

    return after


def held(work, run):
    """Return copies of all that training holds for each parameter: its value, its average and what the optimizer remembers."""
    found = {}
    for name, parameter in run.parameters.items():
        remembered = {key: value for key, value in run.optimizer.state[parameter].items() if value.ndim}
        found[name] = {"value": parameter, "average": run.averages[name], **remembered}
    return {name: {key: value.detach().clone() for key, value in each.items()} for name, each in found.items()}


@pytest.mark.parametrize("name", ["sgd", "adamw", "channels last"])
def test_a_cut_keeps_the_parameters_and_slices_all_that_is_held_for_them(name, monkeypatch):
    model, seen, shorten = program(), [], loop.state.shorten
    objects = dict(model.named_parameters())

    def spying(work, run, keep):
        before = held(work, run)
        shorten(work, run, keep)
        seen.append((before, held(work, run), dict(run.parameters), {id(p) for g in run.optimizer.param_groups for p in g["params"]}))

    monkeypatch.setattr(loop.state, "shorten", spying)
    fitted = train(name, model, after_batch=cut_at(7))
    [(before, after, parameters, optimized)] = seen
    assert before.keys() == after.keys() == SLICED.keys()
    for each, slice_ in SLICED.items():
        assert len(before[each]) == (4 if name == "adamw" else 3)
        for key, value in before[each].items():
            assert torch.equal(after[each][key], slice_(value)), f"{key} of {each}"
        assert value.any()
    assert {each: id(parameter) for each, parameter in parameters.items()} == {each: id(objects[each]) for each in objects}
    assert optimized == {id(parameter) for parameter in model.parameters()}
    assert fitted.epochs == 4
    assert fitted.history[-1].loss < fitted.history[0].loss
    assert {each: tuple(tensor.shape) for each, tensor in model.named_parameters()} == {
        e: tuple(t["value"].shape) for e, t in after.items()
    }
    assert model.get_buffer("4.running_var").shape == (20,)


def test_after_a_cut_training_is_that_of_the_cut_network():
    """Without momentum and averages, cutting between two epochs is training, cutting, and training on with the rest of the schedule."""
    settings = Training(epochs=2, batch=64, momentum=0.0, schedule="constant", learning_rate=0.05, autocast="off")
    whole, parts = program(without_dropout()), program(without_dropout())
    seen = []

    def loss(model, inputs, labels):
        seen.append(inputs)
        return cross_entropy(model, inputs, labels)

    keep = {"0.weight[0]": EVEN}
    fit(whole, TRAIN, settings, loss=loss, after_batch=cut_at(5, keep))
    fit(parts, TRAIN, replace(settings, epochs=1))
    cut(parts, keep)
    second = Split(torch.cat(seen[5:]).numpy(), labels_of(torch.cat(seen[5:])))
    for start in range(0, 300, 64):
        batch = second.take(slice(start, start + 64))
        fit(parts, batch, replace(settings, epochs=1))
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(parameter, parts.get_parameter(name), rtol=1e-4, atol=1e-5)


def without_dropout():
    module = network()
    del module[7]
    return module


def labels_of(inputs):
    """Find the labels of training inputs again."""
    everything, labels = TRAIN.batch(slice(None))
    return labels[torch.cdist(inputs.flatten(1), everything.flatten(1)).argmin(1)].numpy()


@pytest.mark.parametrize(("name", "stop"), [("sgd", 8), ("sgd", 17), ("adamw", 12), ("channels last", 12), ("best", 12)])
def test_a_training_interrupted_after_a_cut_continues_to_the_same_bits(name, stop, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    whole, part, again = program(), program(), program()
    expected = train(name, whole, after_batch=cut_at(7))
    with pytest.raises(Killed):
        train(name, part, folder=tmp_path, after_batch=cut_at(7, stop=stop))
    found = train(name, again, folder=tmp_path, after_batch=cut_at(7))
    assert scores(found) == scores(expected)
    assert same(whole, again)
    assert len(list(tmp_path.iterdir())) == 1


def test_two_cuts_are_continued_too(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)

    def twice(stop=None):
        def after(done, total):
            if done == stop:
                raise Killed
            return {6: {"0.weight[0]": EVEN}, 9: {"0.weight[0]": [0, 1, 5], "3.weight[0]": FIRST}}.get(done)

        return after

    whole, again = program(), program()
    train("sgd", whole, after_batch=twice())
    with pytest.raises(Killed):
        train("sgd", program(), folder=tmp_path, after_batch=twice(stop=12))
    train("sgd", again, folder=tmp_path, after_batch=twice())
    assert same(whole, again)
    assert again.get_parameter("3.weight").shape == (20, 3, 3, 3)


def test_the_best_epoch_is_one_after_the_cut():
    snapshots, model = [], program()

    def score(model, split):
        snapshots.append(clone(model))
        return [0.9, 0.2, 0.6, 0.5][len(snapshots) - 1]

    fitted = fit(model, TRAIN, Training(epochs=4, batch=64, keep="best"), validation=VALIDATION, score=score, after_batch=cut_at(7))
    assert (fitted.score, fitted.best) == (0.6, 0.6)
    assert same(model, snapshots[2])
    assert snapshots[0].get_parameter("0.weight").shape[0] == 16


def test_patience_counts_from_the_cut():
    values = scored(0.9, 0.2, 0.3, 0.1, 0.1, 0.8)
    training = Training(epochs=6, batch=64, patience=2)
    assert fit(program(), TRAIN, training, validation=VALIDATION, score=values, after_batch=cut_at(7)).epochs == 5


def changes_until(batch):
    """A callback that says of the network, up to a batch, that it is another than before."""
    return lambda done, total: {} if done <= batch else None


def test_the_best_epoch_is_one_after_the_last_change_that_a_callback_tells_of():
    snapshots, values = [], scored(0.9, 0.8, 0.6, 0.7)

    def score(model, split):
        snapshots.append(deepcopy(model))
        return values(model, split)

    model, training = network(), Training(epochs=4, batch=64, keep="best")
    fitted = fit(model, TRAIN, training, validation=VALIDATION, score=score, after_batch=changes_until(10))
    assert (fitted.score, fitted.best) == (0.8, 0.8)  # the change is in the second epoch, which ends with the network that stays
    assert same(model, snapshots[1])


def test_patience_does_not_begin_while_the_network_changes():
    training = Training(epochs=6, batch=64, patience=2)
    values = scored(0.9, 0.2, 0.3, 0.1, 0.1, 0.8)
    assert fit(network(), TRAIN, training, validation=VALIDATION, score=values, after_batch=changes_until(7)).epochs == 5


def test_only_a_program_can_be_cut():
    with pytest.raises(LaconicError, match="only a captured program can be cut while it trains; this model is a Sequential"):
        fit(network(), TRAIN, PLAIN, after_batch=cut_at(2))


def test_a_cut_that_cannot_be_is_refused():
    with pytest.raises(LaconicError, match="there is no group 'nothing'"):
        fit(program(), TRAIN, PLAIN, after_batch=cut_at(2, {"nothing": [0]}))


class Tied(nn.Module):
    """One weight for two layers of a residual sum, so that a cut takes rows and columns of it."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two, self.head = nn.Linear(64, 12), nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 10)
        self.two.weight = self.one.weight

    def forward(self, x):
        x = torch.relu(self.stem(x.flatten(1)))
        x = x + torch.relu(self.one(x))
        return self.head(x + torch.relu(self.two(x)))


def test_tied_weights_are_cut_once_and_stay_tied(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    torch.manual_seed(0)
    module = Tied()
    whole, again = program(module), program(module)
    [group] = channel_groups(whole)
    keep = {group.name: [0, 3, 4, 7, 8, 9, 11]}
    train("adamw", whole, after_batch=cut_at(7, keep))
    assert whole.one.weight is whole.two.weight
    assert whole.one.weight.shape == (7, 7)
    with pytest.raises(Killed):
        train("adamw", program(module), folder=tmp_path, after_batch=cut_at(7, keep, stop=12))
    train("adamw", again, folder=tmp_path, after_batch=cut_at(7, keep))
    assert same(whole, again)


def test_scales_of_groups_are_cut_with_their_weight_and_go_on_learning(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)

    def quantized():
        model = program()
        weight = read(model, "3.weight").detach()
        group = consecutive_groups(tuple(weight.shape[1:]), groups=weight[0].numel() // 6)
        largest = per_group(weight, 0, 6).abs().amax(1).reshape(len(weight), -1)
        represent(model, "3.weight", Uniform(largest / 7, bits=4, axis=0, group=group))
        return model

    whole, again = quantized(), quantized()
    train("adamw", whole, after_batch=cut_at(7))
    with pytest.raises(Killed):
        train("adamw", quantized(), folder=tmp_path, after_batch=cut_at(7, stop=12))
    train("adamw", again, folder=tmp_path, after_batch=cut_at(7))
    assert same(whole, again)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("axis", [0, None])
def test_a_quantizer_is_cut_with_its_weight_and_its_scale_goes_on_learning(learned, axis, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)

    def quantized():
        model = program()
        largest = read(model, "3.weight").detach().abs().amax((1, 2, 3)) if axis == 0 else read(model, "3.weight").detach().abs().max()
        represent(model, "3.weight", Uniform(largest / 127, torch.zeros_like(largest), 8, axis=axis))
        model.get_parameter(SCALE).requires_grad_(learned)
        return model

    whole, again = quantized(), quantized()
    start = whole.get_parameter(SCALE).detach().clone()
    train("adamw", whole, after_batch=cut_at(7))
    scale = whole.get_parameter(SCALE)
    assert scale.requires_grad == learned
    assert torch.equal(scale, start[FIRST] if axis == 0 else start) != learned
    assert read(whole, "3.weight").shape == (20, 8, 3, 3)
    with pytest.raises(Killed):
        train("adamw", quantized(), folder=tmp_path, after_batch=cut_at(7, stop=12))
    train("adamw", again, folder=tmp_path, after_batch=cut_at(7))
    assert same(whole, again)


SCALE = "3.parametrizations.weight.0.scale"


def test_frozen_parameters_are_cut_and_stay_as_they_were():
    model = program()
    for name in ("0.weight", "3.weight"):
        model.get_parameter(name).requires_grad_(False)
    before = {name: model.get_parameter(name).detach().clone() for name in ("0.weight", "3.weight")}
    train("sgd", model, after_batch=cut_at(7))
    for name, value in before.items():
        assert torch.equal(model.get_parameter(name), SLICED[name](value))
