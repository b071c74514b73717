"""Everything a user can get wrong or lose: one paragraph and exit code 2, or going on as if nothing had happened."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from laconic.errors import LaconicError
from laconic.job import Origin, prepare
from laconic.program import save
from laconic.zoo import load
from test_cli import run, user_file

TIMINGS = {"seconds", "latency_seconds", "throughput_per_second", "throughput", "faster", "peak_memory_bytes", "joules", "latency_ms"} | {
    "seconds_before",
    "seconds_after",
}


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    return user_file(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a small digits network: whole, and damaged in every way."""
    folder = tmp_path_factory.mktemp("weights")
    state = load("zoo:digits_cnn?width=4").state_dict()
    save_file(state, folder / "whole.safetensors")
    torch.save(state, folder / "whole.pt")
    torch.save({"model": torch.nn.Linear(2, 2)}, folder / "pickle.pt")
    save_file({**state, "fc.bias": torch.full((10,), torch.nan)}, folder / "nan.safetensors")
    for name in ("whole.safetensors", "whole.pt"):
        content = (folder / name).read_bytes()
        (folder / f"cut_{name}").write_bytes(content[: len(content) // 2])
    content = bytearray((folder / "whole.pt").read_bytes())
    content[len(content) // 2] ^= 0x55
    (folder / "flipped.pt").write_bytes(content)
    (folder / "weights.txt").write_bytes(b"x")
    return folder


def refused(capfd, out, *argv):
    """Run a command that must be refused; returns its one paragraph."""
    code = run(*argv, *(["--out", out] if out else []))
    printed = capfd.readouterr()
    assert code == 2, printed.err
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert "Traceback" not in printed.err
    assert "\n" not in printed.err.strip()
    if out and Path(out).is_dir():
        assert not [path for path in Path(out).rglob("*") if path.is_file() and "work" not in path.parts]
    return printed.err


DIGITS = ("--model", "zoo:digits_cnn", "--weights", "none.safetensors", "--data", "digits")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--model", "zoo:digits_cn", "--data", "digits"), "did you mean 'digits_cnn'"),
        (("--model", "zoo:digits_cnn", "--data", "digit"), "did you mean 'digits'"),
        (("--model", "zoo:digits_cnn", "--data", "digits?size=3"), "size"),
        ((*DIGITS, "--runtime", "onnxruntim"), "did you mean 'onnxruntime'"),
        ((*DIGITS, "--smaller", "-1"), "--smaller must be above 0"),
        ((*DIGITS, "--smaller", "nan"), "--smaller"),
        ((*DIGITS, "--faster", "inf"), "--faster"),
        ((*DIGITS, "--max-drop", "nan"), "--max-drop"),
        ((*DIGITS, "--max-drop", "200"), "from 0 to 100"),
        ((*DIGITS, "--max-latency-ms", "nan"), "--max-latency-ms"),
        (("--model", "none.safetensors", "--data", "digits"), "no program"),
        (("--model", "none.py:model", "--data", "digits"), "no file"),
    ],
)
def test_shrink_refuses_what_cannot_work_and_says_what_would(argv, words, tmp_path, capfd):
    assert words in refused(capfd, tmp_path, "shrink", *argv)


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        ("not_a_number", "data", "'0.weight' has 1 entries"),
        ("Branch", "data", "mine.py:62 (if outputs.sum() > 0:"),
        ("regression", "data", "one row of class scores"),
        ("other_inputs", "data", "4"),
        ("modle", "data", "did you mean 'model'"),
        ("model", "bad_labels", "label 7 at test[5]"),
        ("model", "raises", "mine.py:"),
        ("model", "dat", "did you mean 'data'"),
    ],
)
def test_what_is_wrong_in_the_users_file_is_named(model, data, words, mine, tmp_path, capfd):
    assert words in refused(capfd, tmp_path, "shrink", "--model", f"{mine}:{model}", "--data", f"{mine}:{data}")


def test_missing_data_says_where_to_get_it(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("LACONIC_DATA", str(tmp_path / "empty"))
    arguments = ("--model", "zoo:resnet20", "--data", "cifar10-jpeg")
    assert "https://" in refused(capfd, tmp_path / "out", "shrink", *arguments)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (b"", "got nothing"),
        (b"[]", "an empty list"),
        (b"{a: 1}", "got dict"),
        (b"42", "got int"),
        (b"- [unclosed", "is not YAML"),
        (b"\xff\xfe\x00\x81", "recipe.yaml"),
        (b"- quantize.Statik", "did you mean 'Static'"),
        (b"- quantize.Static: {range: min-max}", "did you mean 'ranges'"),
        (b"- quantize.Static: 5", "got 5"),
        (b"- prune.Magnitude: {sparsity: 1.5}", "less than 1"),
        (None, "No such file"),
    ],
)
def test_a_recipe_that_is_none_is_refused(recipe, words, tmp_path, capfd):
    path = tmp_path / "recipe.yaml"
    if recipe is not None:
        path.write_bytes(recipe)
    assert words in refused(capfd, tmp_path / "out", "compress", "--recipe", path, *DIGITS)


def test_a_recipe_that_trains_needs_training_data(mine, tmp_path, capfd):
    (tmp_path / "recipe.yaml").write_text("- tune.FineTune: {epochs: 1}")
    arguments = ("--recipe", tmp_path / "recipe.yaml", "--model", f"{mine}:model", "--data", f"{mine}:without_training")
    assert "no training split" in refused(capfd, tmp_path / "out", "compress", *arguments)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut_whole.safetensors", "not a whole"),
        ("cut_whole.pt", "not a whole"),
        ("flipped.pt", "flipped.pt"),
        ("pickle.pt", "not safe"),
        ("nan.safetensors", "NaN"),
        ("weights.txt", ".safetensors, .pt"),
        ("none.pt", "no weights file"),
    ],
)
def test_damaged_weights_are_refused(name, words, weights, tmp_path, capfd):
    arguments = ("--model", "zoo:digits_cnn?width=4", "--weights", weights / name, "--data", "digits")
    assert words in refused(capfd, tmp_path / "x.onnx", "export", *arguments)


def test_weights_of_another_network_are_named(weights, tmp_path, capfd):
    arguments = ("--model", "zoo:lenet5", "--weights", weights / "whole.safetensors", "--data", "digits")
    assert "missing" in refused(capfd, tmp_path, "shrink", *arguments)


@pytest.mark.parametrize("command", ["shrink", "train", "export"])
def test_an_out_that_cannot_be_written_is_found_before_any_work(command, mine, capfd):
    out = mine / {"shrink": "out", "train": "x.safetensors", "export": "x.onnx"}[command]
    arguments = ("--model", f"{mine}:model", "--data", f"{mine}:data")
    assert "cannot write" in refused(capfd, out, command, *arguments)


@pytest.mark.parametrize(("command", "out", "words"), [("train", "x.pt", ".safetensors"), ("export", "x.tflite", ".onnx")])
def test_a_wrong_suffix_is_refused(command, out, words, mine, tmp_path, capfd):
    assert words in refused(capfd, tmp_path / out, command, "--model", f"{mine}:model", "--data", f"{mine}:data")


def test_a_training_that_diverges_says_so_and_writes_nothing(mine, tmp_path, capfd):
    arguments = ("--model", f"{mine}:model", "--data", f"{mine}:data", "--learning-rate", "1e30", "--schedule", "constant")
    assert "diverged" in refused(capfd, tmp_path / "x.safetensors", "train", *arguments, "--epochs", "3")
    assert not (tmp_path / "x.safetensors").exists()


def untimed(value):
    """Return a receipt without what a clock or an allocator says."""
    if isinstance(value, dict):
        return {key: untimed(inner) for key, inner in value.items() if key not in TIMINGS}
    return [untimed(inner) for inner in value] if isinstance(value, list) else value


def receipt(out):
    whole = untimed(json.loads((out / "receipt.json").read_text()))
    return {key: value for key, value in whole.items() if key != "command"}


def pieces(out):
    """Return what is finished in the store: the identity of every whole file by name."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (out / "work").iterdir() if path.suffix != ".unfinished"}


@pytest.fixture(scope="module")
def trained(mine):
    """A finished run of a recipe that quantizes and then trains, and how to run it elsewhere."""
    recipe = mine.with_name("recipe.yaml")
    recipe.write_text("- prune.Magnitude: {sparsity: 0.25}\n- tune.FineTune: {epochs: 40}\n- quantize.Static\n")
    command = ["compress", "--recipe", str(recipe), "--model", f"{mine}:model", "--data", f"{mine}:data", "--out"]
    out = mine.with_name("trained")
    assert run(*command, out) == 0
    return out, command


def test_a_run_killed_in_training_goes_on_and_ends_with_the_same_receipt(trained, tmp_path):
    reference, command = trained
    out = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-m", "laconic.cli", *command, out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("work/*.unfinished/*.safetensors")) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (out / "receipt.json").exists()
    kept = pieces(out)
    assert len([name for name in kept if name.endswith(".safetensors")]) == 1  # pruning is finished, training is not
    assert run(*command, out) == 0
    assert kept.items() <= pieces(out).items()
    assert receipt(out) == receipt(reference)


def test_the_same_command_again_does_nothing_twice(trained):
    out, command = trained
    kept, before = pieces(out), (out / "receipt.json").read_text()
    assert run(*command, out) == 0
    assert pieces(out) == kept
    assert json.loads((out / "receipt.json").read_text()) == json.loads(before)


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("????????????????.safetensors", "cut"),
        ("????????????????.safetensors", "removed"),
        ("????????????????.json", "cut"),
        ("artifact-*.onnx", "flipped"),
        ("artifact-*.onnx", "removed"),
        ("float-*.onnx", "cut"),
        ("score-test-*", "cut"),
    ],
)
def test_a_damaged_piece_of_finished_work_is_done_again_or_named(pattern, damage, trained, tmp_path, capfd):
    reference, command = trained
    out = tmp_path / "damaged"
    shutil.copytree(reference, out)
    piece = sorted((out / "work").glob(pattern))[0]
    content = bytearray(piece.read_bytes())
    content[len(content) // 2] ^= 0x55
    if damage == "removed":
        piece.unlink()
    else:
        piece.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    code = run(*command, out)
    printed = capfd.readouterr()
    if code == 0:
        assert receipt(out) == receipt(reference)
    else:
        assert code == 2
        assert str(piece.name) in printed.err
        assert "remove" in printed.err


def test_other_data_in_the_same_folder_is_other_work(mine, tmp_path):
    (tmp_path / "recipe.yaml").write_text("- quantize.Static")
    command = ["compress", "--recipe", tmp_path / "recipe.yaml", "--model", f"{mine}:model", "--data"]
    assert run(*command, f"{mine}:data", "--out", tmp_path / "shared") == 0
    assert run(*command, f"{mine}:other_data", "--out", tmp_path / "shared") == 0
    assert run(*command, f"{mine}:other_data", "--out", tmp_path / "fresh") == 0
    assert receipt(tmp_path / "shared") == receipt(tmp_path / "fresh")


def test_a_full_disk_is_one_paragraph_and_leaves_nothing(mine, tmp_path):
    program, out = prepare(Origin(f"{mine}:model", f"{mine}:data"), 1).program, tmp_path / "program.safetensors"
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))  # writing beyond it fails, as on a full disk
    try:
        with pytest.raises(LaconicError, match="cannot write"):
            save(program, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())
