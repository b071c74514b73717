"""The smallest file within a loss of accuracy, and networks that come without weights."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from laconic import fresh
from laconic.errors import UnreachableError
from laconic.job import Origin
from laconic.measure.latency import interleaved
from laconic.pack.file import Coder
from laconic.pack.programs import arrays_of
from laconic.search import untrained
from laconic.search.packing import pack_within, widest
from laconic.store import Store
from test_cli import run, user_file


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Measure in this process: a fresh one takes seconds to load torch, and there are many."""
    monkeypatch.setattr(fresh, "_run", lambda folder, threads, trouble: fresh._work(folder))
    monkeypatch.setattr(fresh, "interleaved", lambda calls, seconds, least: interleaved(calls, 0.05, 6))


@pytest.mark.parametrize("most", [-30, -7, 0, 49])
def test_the_widest_step_that_keeps_the_score_is_found(most):
    coder = Coder(lambda step: SimpleNamespace(step=step), range(-50, 50))
    packed, score = widest(coder, lambda packed: 0.9 if packed.step <= most else 0.8, 0.9)
    assert (packed.step, score) == (most, 0.9)


def test_where_every_step_loses_too_much_that_is_said():
    with pytest.raises(UnreachableError, match="finest step"):
        widest(Coder(lambda step: SimpleNamespace(step=step), range(-50, 50)), lambda packed: 0.5, 0.9)


def test_a_network_is_packed_within_the_loss_that_is_allowed(program, splits):
    said = []
    kept = pack_within(arrays_of(program), {}, 1.0, splits.validation, 1, 4, said.append)
    assert kept.before - kept.after <= 0.01 + 1e-9
    assert kept.packed.bits_per_weight < 8
    assert 5 < len(said) < 12


def test_shrinking_far_ends_in_a_packed_file_with_what_it_costs(tmp_path, capfd):
    mine = user_file(tmp_path)
    arguments = ["--model", f"{mine}:model", "--data", f"{mine}:data", "--out", tmp_path / "out", "--json"]
    assert run("shrink", *arguments, "--smaller", "15", "--max-drop", "3") == 0
    receipt = json.loads(capfd.readouterr().out)
    assert receipt["after"]["file"] == "model.lac"
    assert receipt["ratios"]["smaller"] >= 15
    assert "bits per weight" in receipt["runtime"]["coded"]
    assert receipt["runtime"]["executes"].startswith("smaller, not faster")
    assert receipt["after"]["decode_seconds"] > 0


def test_a_built_in_network_without_weights_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.setattr(untrained, "_USUAL", {"epochs": 1, "learning_rate": 0.05})
    said = []
    origin, store = Origin("zoo:digits_cnn?width=2", "digits"), Store(tmp_path / "work")
    first, second = (untrained.prepare_trained(origin, 1, "onnxruntime", tmp_path, store, said.append) for _ in range(2))
    assert first.model_hash == second.model_hash
    assert first.origin.weights == tmp_path / "weights.safetensors"
    assert "from random weights at seed 0: tune.FineTune" in first.trained
    assert "trained first, for 1 epochs" in said[0]
    assert len(list((tmp_path / "work").glob("*.safetensors"))) == 1
    assert np.isfinite(first.context.score(first.program, first.splits.validation))
