import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from laconic import fresh
from laconic.data.dataset import Split
from laconic.errors import LaconicError
from laconic.fresh import File, joules_per_example, peak_memory, score_file, time_files

CLASSES = 6


def write_linear(path, weight, repeats=1):
    """Write `x @ weight` (and then, some times over, `@ identity`) as an ONNX file for any batch."""
    wide = weight.shape[1]
    tensors = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.eye(wide, dtype=np.float32), "identity")]
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y0"])]
    nodes += [helper.make_node("MatMul", [f"y{number}", "identity"], [f"y{number + 1}"]) for number in range(repeats - 1)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weight.shape[0]])
    y = helper.make_tensor_value_info(f"y{repeats - 1}", TensorProto.FLOAT, ["batch", wide])
    graph = helper.make_graph(nodes, "linear", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return File(path)


@pytest.fixture
def file(tmp_path):
    return write_linear(tmp_path / "linear.onnx", np.eye(CLASSES, dtype=np.float32))


@pytest.fixture
def example():
    return np.random.default_rng(0).normal(size=(4, CLASSES)).astype(np.float32)


def test_a_file_is_scored_as_numpy_scores_it(file):
    draw = np.random.default_rng(0)
    inputs, labels = draw.integers(0, 256, (100, CLASSES), dtype=np.uint8), draw.integers(0, CLASSES, 100)
    mean, std = tuple(range(CLASSES)), (3.0, 0.1, 7.0, 1.0, 50.0, 2.0)
    scores = (inputs - np.float32(mean)) / np.float32(std)
    found = score_file(file, Split(inputs, labels, mean, std), threads=1, batch=30)
    assert found.top1 == np.mean(scores.argmax(axis=1) == labels)
    assert found.top5 == np.mean(np.argsort(scores, axis=1)[:, 0] != labels)
    assert found.examples == 100
    assert set(found.per_class) == set(range(CLASSES))


def test_a_larger_network_is_timed_as_slower(tmp_path, file):
    draw = np.random.default_rng(0)
    large = write_linear(tmp_path / "large.onnx", draw.normal(size=(CLASSES, 512)).astype(np.float32), repeats=8)
    times = time_files([large, file], np.ones((1, CLASSES), dtype=np.float32), threads=1, batch=16, seconds=0.1)
    assert times.shape[0] >= 30
    assert np.median(times[:, 0] / times[:, 1]) > 2


def test_a_batch_repeats_the_examples(file, example, monkeypatch):
    seen = []

    def ask(task, files, arrays, threads, **settings):
        seen.append(arrays["inputs"])
        return {"seconds": np.ones((6, 1))}

    monkeypatch.setattr(fresh, "_ask", ask)
    time_files([file], example, threads=1, batch=6)
    assert seen[0].tolist() == example[[0, 1, 2, 3, 0, 1]].tolist()


def test_peak_memory_holds_the_weights_and_no_torch(tmp_path, file, example):
    weight = np.random.default_rng(0).normal(size=(CLASSES, 4 << 20)).astype(np.float32)  # 96 MiB
    tensors = [numpy_helper.from_array(weight, "weight")]
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["wide"]), helper.make_node("ReduceMax", ["wide"], ["y"], keepdims=1)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    model = helper.make_model(
        helper.make_graph(nodes, "wide", [x], [y], tensors), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.save(model, tmp_path / "wide.onnx")
    small, large = peak_memory(file, example, threads=1), peak_memory(File(tmp_path / "wide.onnx"), example, threads=1)
    assert 20e6 < small < 120e6  # torch alone would be 200 MB
    assert large - small > weight.nbytes


def test_what_a_child_imports_does_not_import_torch():
    program = "import sys, laconic.fresh, laconic.measure, laconic.runtimes.onnxruntime; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_energy_is_none_or_positive(file, example):
    found = joules_per_example(file, example, threads=1, seconds=0.1)
    assert found is None or found > 0


def test_a_network_that_returns_nan_is_not_scored(tmp_path):
    file = write_linear(tmp_path / "nan.onnx", np.full((CLASSES, CLASSES), np.nan, dtype=np.float32))
    with pytest.raises(
        LaconicError, match=r"cannot measure accuracy of .*nan\.onnx in a fresh process: the network's output is NaN or infinite for 3 of 3"
    ):
        score_file(file, Split(np.ones((3, CLASSES), dtype=np.float32), np.zeros(3, dtype=np.int64)), threads=1)


def test_a_damaged_file_is_an_error_that_names_it(tmp_path, example):
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(LaconicError, match=r"bad\.onnx"):
        peak_memory(File(tmp_path / "bad.onnx"), example, threads=1)


def test_a_missing_file_and_an_unknown_runtime_are_said_before_any_work(tmp_path, file, example):
    with pytest.raises(LaconicError, match=r"there is no file .*gone\.onnx to measure"):
        peak_memory(File(tmp_path / "gone.onnx"), example, threads=1)
    with pytest.raises(LaconicError, match="unknown runtime 'onnxruntim'; did you mean 'onnxruntime'"):
        peak_memory(File(file.path, "onnxruntim"), example, threads=1)


def test_a_child_that_is_killed_is_said_to_be(tmp_path, file, example, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import os\nif os.environ.get('PYTHONHASHSEED') == '0': os.kill(os.getpid(), 9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LaconicError, match=r"it was killed by signal 9 \(out of memory\?\)"):
        peak_memory(file, example, threads=1)


def test_the_child_has_the_threads_it_was_told(tmp_path, file, example, monkeypatch):
    told = tmp_path / "told"
    (tmp_path / "sitecustomize.py").write_text(f"import os\nopen({str(told)!r}, 'w').write(os.environ['OMP_NUM_THREADS'])\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    peak_memory(file, example, threads=3)
    assert told.read_text() == "3"


def test_nothing_is_left_behind(tmp_path, file, example, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    peak_memory(file, example, threads=1)
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(LaconicError):
        peak_memory(File(tmp_path / "bad.onnx"), example, threads=1)
    assert not list((tmp_path / "temporary").iterdir())


PARENT = """
import pathlib, signal, sys
import numpy as np
from laconic.fresh import File, time_files
signal.signal(signal.SIGINT, signal.default_int_handler)
time_files([File(pathlib.Path(sys.argv[1]))], np.ones((1, 6), dtype=np.float32), threads=1, batch=256, seconds=60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_child_ends_with_its_parent_and_leaves_nothing(tmp_path, monkeypatch, end):
    slow = write_linear(tmp_path / "slow.onnx", np.ones((CLASSES, 1024), dtype=np.float32), repeats=9)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    with subprocess.Popen([sys.executable, "-c", PARENT, str(slow.path)], stderr=subprocess.DEVNULL) as parent:
        try:
            (child,) = wait_for(psutil.Process(parent.pid).children)
            time.sleep(1)
            assert running(child)
            assert list((tmp_path / "temporary").iterdir())
        finally:
            parent.send_signal(end)
    assert wait_for(lambda: not running(child))
    assert not list((tmp_path / "temporary").iterdir())


def running(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return found
