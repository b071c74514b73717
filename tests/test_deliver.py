"""Delivery: exported once, measured on the file, and never a file whose check failed."""

import pytest

from laconic.deliver import export, fastest_float, measure_alone, score
from laconic.errors import LaconicError
from laconic.job import Origin, prepare
from laconic.runtimes import onnxruntime
from laconic.store import Store
from test_cli import user_file


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    mine = user_file(tmp_path_factory.mktemp("user"))
    return prepare(Origin(f"{mine}:model", f"{mine}:data"), 1)


def test_a_file_is_exported_once(job, tmp_path):
    first = fastest_float(job, Store(tmp_path)).file.path
    written = first.stat().st_mtime_ns
    assert fastest_float(job, Store(tmp_path)).file.path == first
    assert first.stat().st_mtime_ns == written


def test_a_file_whose_check_failed_is_not_there_for_the_next_run(job, tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise LaconicError("outputs differ")

    monkeypatch.setattr(onnxruntime, "_checked", refuse)
    for _ in range(2):
        with pytest.raises(LaconicError, match="outputs differ"):
            export(job.program, "artifact", "onnxruntime", job, Store(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_score_is_measured_once_for_each_file(job, tmp_path, monkeypatch):
    store = Store(tmp_path)
    file = fastest_float(job, store).file
    first = score(file, job.splits.test, "test", job, store)
    monkeypatch.setattr("laconic.fresh.score_file", None)
    assert score(file, job.splits.test, "test", job, store) == first
    assert first["examples"] == 90


def test_a_network_measured_alone_and_its_exported_file_agree(job, tmp_path):
    file = export(job.program, "float", "onnxruntime", job, Store(tmp_path)).file.path
    network, exported = (measure_alone(Origin(name, job.origin.data), "onnxruntime", 1) for name in (job.origin.model, str(file)))
    for name in ("accuracy", "file_bytes", "parameters", "macs", "accuracy_per_class"):
        assert network[name] == exported[name]
    assert exported["parameters"] == 5 * 128 + 129 * 128 + 129 * 3
    assert exported["macs"] == 4 * 128 + 128 * 128 + 128 * 3
