"""The user names a runtime, or takes the fastest: what is delivered, and what is said where a package or a runtime fails."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest

import laconic
from laconic import fresh
from laconic.deliver import Exported, export_each, fastest, measure_alone
from laconic.errors import LaconicError
from laconic.fresh import File
from laconic.job import Origin, prepare
from laconic.receipt import Budget
from laconic.runtimes import NAMES, candidates, installed, onnxruntime, runtime
from laconic.search.ladder import Rung
from laconic.search.reference import Reference
from laconic.store import Store
from laconic.verify import verify
from test_cli import run, user_file

SPEED = ("ratios", "latency", "throughput", "memory", "budget")


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    return user_file(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def job(mine):
    return prepare(Origin(f"{mine}:model", f"{mine}:data"), 1)


def timed_as(seconds, monkeypatch):
    """Let every runtime take the seconds that are given for it."""
    monkeypatch.setattr(fresh, "time_files", lambda files, *_, **__: np.array([[seconds[file.runtime] for file in files]] * 30))


def without(package, monkeypatch):
    """Let a package not be installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else find(name, *more))


def test_a_runtime_without_its_package_is_an_error_that_says_what_to_install(monkeypatch):
    without("openvino", monkeypatch)
    assert installed() == candidates("fastest") == ["onnxruntime"]
    for ask in (runtime, candidates):
        with pytest.raises(LaconicError, match=r"the openvino runtime needs the package openvino: pip install 'laconic\[openvino\]'"):
            ask("openvino")


def test_no_work_begins_for_a_runtime_that_is_not_there(mine, tmp_path, capfd, monkeypatch):
    without("openvino", monkeypatch)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("- quantize.Static\n")
    out = tmp_path / "out"
    for command in (("shrink",), ("compress", "--recipe", recipe)):
        assert run(*command, "--model", f"{mine}:model", "--data", f"{mine}:data", "--out", out, "--runtime", "openvino") == 2
        assert "pip install 'laconic[openvino]'" in capfd.readouterr().err
    assert not out.exists()


def test_an_unknown_runtime_is_told_what_there_is():
    assert [candidates(name) for name in installed()] == [[name] for name in installed()]
    with pytest.raises(LaconicError, match="did you mean 'fastest'"):
        candidates("fastes")


def test_a_runtime_that_refuses_the_network_is_left_out_and_said(job, tmp_path, monkeypatch):
    def refuse(*_):
        raise LaconicError("outputs differ")

    said = []
    monkeypatch.setattr(onnxruntime, "export", refuse)
    with pytest.raises(LaconicError, match="outputs differ"):
        export_each(job.program, "all", ["onnxruntime"], job, Store(tmp_path), said.append)
    assert not said
    pytest.importorskip("openvino")
    [file] = export_each(job.program, "some", NAMES, job, Store(tmp_path), said.append)
    assert file.file.runtime == "openvino"
    assert said == ["      left out, onnxruntime: outputs differ"]


@pytest.mark.parametrize("seconds", [{"onnxruntime": 1.0, "openvino": 2.0}, {"onnxruntime": 2.0, "openvino": 1.0}])
def test_the_fastest_is_chosen_by_time(seconds, job, tmp_path, monkeypatch):
    timed_as(seconds, monkeypatch)
    files = []
    for name in NAMES:
        path = tmp_path / f"{name}.onnx"
        path.write_text(name)
        files.append(Exported(job.program, File(path, name)))
    assert fastest(files, job, Store(tmp_path)).file.runtime == min(seconds, key=seconds.__getitem__)


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [
        (Budget(max_drop=50.0), "openvino"),
        (Budget(max_drop=1.0), "onnxruntime"),
        (Budget(max_drop=1.0, faster=1.5), "onnxruntime"),
        (Budget(max_drop=50.0, faster=100.0), "openvino"),
    ],
    ids=["both meet it", "the faster one loses too much", "the slower one misses only speed", "both miss speed"],
)
def test_a_search_takes_the_fastest_that_meets_the_rest_of_the_budget(budget, chosen, job, tmp_path, monkeypatch):
    """Of the two, OpenVINO is given twice the speed and ten points less accuracy."""
    pytest.importorskip("openvino")
    baseline = Exported(job.program, File(tmp_path / "float.onnx", "onnxruntime"))
    baseline.file.path.write_bytes(b"x" * 10000)
    factor = {"onnxruntime": 1.0, "openvino": 2.0}

    def times(before, after, *_, **__):
        return {"ratio": {"median": factor[after.runtime]}, "after": {"median": 1 / factor[after.runtime]}}

    def score(file, *_):
        return {"top1": 0.8 if file.runtime == "openvino" else 0.9}

    searching, referring = (importlib.import_module(f"laconic.search.{name}") for name in ("shrink", "reference"))
    monkeypatch.setattr(searching, "timed", times)
    for module in (searching, referring):
        monkeypatch.setattr(module, "score", score)
    reference = Reference(baseline, job, Store(tmp_path), lambda text: None)
    tried = searching._try(Rung("float", []), reference, budget, NAMES)
    assert tried.exported.file.runtime == chosen
    assert tried.attempt.faster == factor[chosen]


def test_what_openvino_delivers_is_verified_and_loaded_in_openvino(mine, tmp_path, capfd):
    pytest.importorskip("openvino")
    (tmp_path / "recipe.yaml").write_text("- quantize.WeightOnly: {format: int4, granularity: channel}\n")
    arguments = [
        "--recipe",
        tmp_path / "recipe.yaml",
        "--data",
        f"{mine}:data",
        "--out",
        tmp_path / "out",
        "--json",
        "--runtime",
        "openvino",
    ]
    assert run("compress", "--model", f"{mine}:model", *arguments) == 0
    printed = capfd.readouterr()
    receipt = json.loads(printed.out)
    assert (receipt["after"]["runtime"], receipt["runtime"]["name"]) == ("openvino", "openvino")
    assert "dense" not in receipt["runtime"]
    assert "dense" not in printed.err
    assert receipt["ratios"]["smaller"] > 3
    assert type(laconic.load(tmp_path / "out")).__module__ == "laconic.runtimes.openvino"
    wrong = [check.name for check in verify(tmp_path / "out").checks if not check.ok and not any(word in check.name for word in SPEED)]
    assert not wrong


def test_a_file_is_measured_in_the_runtime_that_is_named_or_the_fastest(job, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    [file] = export_each(job.program, "float", ["openvino"], job, Store(tmp_path), print)
    origin = replace(job.origin, model=str(file.file.path))
    assert measure_alone(origin, "openvino", 1)["runtime"] == "openvino"
    timed_as({"onnxruntime": 2.0, "openvino": 1.0}, monkeypatch)
    assert measure_alone(origin, "fastest", 1)["runtime"] == "openvino"
