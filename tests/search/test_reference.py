"""What an attempt's accuracy is compared with, on validation images that the network has or has not been trained on."""

from dataclasses import replace

import pytest

from laconic.contract import fingerprint
from laconic.deliver import Exported, fastest_float
from laconic.job import Origin, prepare
from laconic.measure import macs
from laconic.search import reference
from laconic.search.ladder import INTEGERS, LAYERS, Rung
from laconic.search.reference import Reference
from laconic.store import Store
from test_cli import user_file

TRAINING = {"epochs": 1, "learning_rate": 0.05, "autocast": "off"}
REMOVING = Rung("half", [{"prune.Filters": {"ratio": 0.5}}, {"distill.Response": TRAINING}, {"quantize.Static": {}}], LAYERS)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    mine = user_file(tmp_path_factory.mktemp("user"))
    return prepare(Origin(f"{mine}:model", f"{mine}:data"), 1)


@pytest.fixture
def compared(job, tmp_path, monkeypatch):
    """`compared(training, validation, rung)`: what is compared with, for the accuracies of the network on both; and the controls made."""
    controls = []

    def make(training, validation, rung, of=job):
        store = Store(tmp_path)
        baseline = fastest_float(job, store)

        def score(file, split, purpose, *_):
            if purpose == "training":
                assert not any((split.inputs[:, None] == job.splits.validation.inputs[None]).all(2).any(1))
                return {"top1": training}
            return {"top1": validation if file == baseline.file else 0.8}

        def export(program, *_):
            controls.append(program)
            return Exported(program, replace(baseline.file, path=tmp_path / "control.onnx"))

        monkeypatch.setattr(reference, "score", score)
        monkeypatch.setattr(reference, "export", export)
        return Reference(baseline, of, store, lambda text: None).of(rung)

    return make, controls


def test_where_the_images_were_trained_on_it_is_the_whole_network_after_the_same_training(job, compared):
    make, controls = compared
    assert make(0.95, 0.95, REMOVING) == (0.8, True)
    [control] = controls
    example = job.context.example()
    assert macs(control, example) == macs(job.program, example)
    assert fingerprint(control) != fingerprint(job.program)


def test_where_the_images_are_new_it_is_the_network_as_it_came(compared):
    make, controls = compared
    assert make(1.0, 0.7, REMOVING) == (0.7, False)
    assert not controls


@pytest.mark.parametrize(
    "rung",
    [
        Rung("float", []),
        Rung("int8, distilled", [{"quantize.Static": {}}, {"distill.Response": TRAINING}], INTEGERS),
        Rung("no training", [{"prune.Filters": {"ratio": 0.5}}, {"quantize.Static": {}}], LAYERS),
    ],
    ids=lambda rung: rung.name,
)
def test_what_forgets_nothing_needs_no_control(compared, rung):
    make, controls = compared
    assert make(0.95, 0.95, rung) == (0.95, False)
    assert not controls


def test_validation_data_of_the_makers_own_are_taken_as_new(job, compared):
    make, controls = compared
    own = replace(job, dataset=replace(job.dataset, validation=job.splits.validation))
    assert make(0.95, 0.95, REMOVING, of=own) == (0.95, False)
    assert not controls
