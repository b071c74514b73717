"""Packed files as a runtime's: nothing is baked in the file, decoding is told, and nobody calls it fast."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import laconic
from laconic import fresh
from laconic.deliver import measure_alone
from laconic.errors import LaconicError
from laconic.fresh import File
from laconic.job import Origin
from laconic.measure.latency import interleaved
from laconic.pack.network import NAMED, read_program, same_weights, write_named
from laconic.program import Mask, capture, clone, place, read, represent
from laconic.program.represent import represented
from laconic.quantize import Static
from laconic.runtimes import candidates, installed, lac, runtime
from laconic.verify import verify
from laconic.zoo.digits import digits_cnn
from test_cli import run, user_file

SPEED = ("ratios", "latency", "throughput", "memory", "seconds", "budget")


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    return user_file(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def pruned(splits, model_of, tmp_path_factory):
    """A network with a mask and quantized activations in a file, and the program it was written from."""
    context = laconic.Context(splits)
    program = capture(model_of(), context.example())
    represent(program, "head.weight", Mask(read(program, "head.weight").abs() > 0.05))
    program = Static()(program, context)
    path = tmp_path_factory.mktemp("lac") / "model.lac"
    return lac.export(program, context.example(), path), program


@pytest.fixture(scope="module")
def model_of():
    from conftest import SmallNetwork

    def make():
        torch.manual_seed(0)
        return SmallNetwork().eval()

    return make


def test_every_form_is_kept_and_the_file_computes_the_same(pruned):
    written, program = pruned
    inputs = torch.randn(7, 1, 8, 8)
    with torch.no_grad():
        np.testing.assert_array_equal(laconic.load(written.path)(inputs.numpy()), program(inputs))
    found = {name: [type(form) for form in forms] for name, forms in represented(read_program(written.path))}
    assert {name: {*forms} for name, forms in found.items()} == {name: {type(f) for f in forms} for name, forms in represented(program)}
    assert written.integer_tensors == 5
    assert not written.baked


def test_what_a_file_holds_is_counted_as_decoded(pruned):
    written, program = pruned
    counts = lac.count(written.path)
    zeros = int((read(program, "head.weight") == 0).sum())
    assert zeros > 100
    assert counts.parameters - counts.nonzero_parameters >= zeros
    assert counts.macs > 16 * 4 * 4 * 10


def test_it_keeps_forms_that_there_are_not_yet():
    assert "a form of the future" in lac.KEEPS


def test_it_never_competes_for_speed():
    assert "lac" not in installed()
    assert "lac" not in candidates("fastest")
    assert candidates("lac") == ["lac"]
    assert runtime("lac") is lac


def test_times_and_operations_of_every_layer_are_told(pruned):
    network = lac.load(pruned[0].path)
    inputs = np.zeros((2, 1, 8, 8), np.float32)
    spent, kernels = network.layer_seconds(inputs, calls=2), network.layer_kernels()
    assert spent.keys() - {""} == kernels.keys() == {"stem", "left", "right", "down", "head"}
    assert all(seconds > 0 for seconds in spent.values())
    assert kernels["head"] == "linear"


def test_inputs_that_do_not_fit_are_told_and_threads_stay_as_they_were(pruned):
    network = lac.load(pruned[0].path, threads=2)
    before = torch.get_num_threads()
    with pytest.raises(LaconicError, match=r"takes x: torch.float32 \(batch, 1, 8, 8\), but got float32 \(2, 3\)"):
        network(np.zeros((2, 3), np.float32))
    assert torch.get_num_threads() == before


def test_decoding_is_measured_in_a_process_of_its_own(pruned):
    seconds, memory = fresh.decoding(File(pruned[0].path, "lac"))
    assert seconds > 0
    assert 10_000_000 < memory < 10_000_000_000


def test_a_limit_of_bytes_is_kept_with_loss(program, context, tmp_path):
    written = lac.export_within(program, context.example(), tmp_path / "a.lac", 3000)
    assert 2700 < (tmp_path / "a.lac").stat().st_size <= 3000
    assert written.difference > 0
    assert sum(written.tensor_bytes.values()) <= 3000
    with pytest.raises(LaconicError, match="cannot be met"):
        lac.export_within(program, context.example(), tmp_path / "b.lac", 300)
    assert not (tmp_path / "b.lac").exists()


def test_what_gives_no_numbers_is_not_written(program, context, tmp_path):
    broken = clone(program)
    place(broken, "head.bias", torch.full((10,), torch.nan))
    with pytest.raises(LaconicError, match="not finite"):
        lac.export(broken, context.example(), tmp_path / "a.lac")
    assert not (tmp_path / "a.lac").exists()


def test_damaged_files_and_those_of_a_newer_version_are_refused(pruned, tmp_path):
    whole = pruned[0].path.read_bytes()
    for data, said in [
        (whole[:-2], "damaged"),
        (whole[:3] + bytes([9]) + whole[4:], "version 9, this reader knows version 1"),
        (b"nothing", "no .lac file"),
    ]:
        (tmp_path / "a.lac").write_bytes(data)
        with pytest.raises(LaconicError, match=said):
            laconic.load(tmp_path / "a.lac")
    with pytest.raises(LaconicError, match="there is no file"):
        laconic.load(tmp_path / "none.lac")


def test_importing_the_runtime_does_not_load_torch():
    code = "import sys, laconic.runtimes.lac; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def here(monkeypatch):
    """Measure in this process: a fresh one takes seconds to load torch, and there are many."""
    monkeypatch.setattr(fresh, "_run", lambda folder, threads, trouble: fresh._work(folder))
    monkeypatch.setattr(fresh, "interleaved", lambda calls, seconds, least: interleaved(calls, 0.05, 6))


def test_a_compressed_network_is_delivered_packed_verified_and_measured(mine, tmp_path, capfd, here):
    (tmp_path / "recipe.yaml").write_text("- prune.Magnitude: {sparsity: 0.8}\n- quantize.WeightOnly: {format: int4}\n")
    arguments = ["--recipe", tmp_path / "recipe.yaml", "--data", f"{mine}:data", "--out", tmp_path / "out", "--runtime", "lac", "--json"]
    assert run("compress", "--model", f"{mine}:model", *arguments) == 0
    printed = capfd.readouterr()
    receipt = json.loads(printed.out)
    assert "dense" not in printed.err
    assert receipt["after"]["file"] == "model.lac"
    assert receipt["runtime"]["executes"].startswith("smaller, not faster: int4 (3), sparse (3)")
    assert receipt["ratios"]["smaller"] > 10
    assert receipt["after"]["decode_seconds"] > 0
    assert receipt["after"]["decode_memory_bytes"] > 0
    assert sum(layer["bytes_after"] for layer in receipt["layers"]) < receipt["after"]["file_bytes"]
    assert type(laconic.load(tmp_path / "out")).__name__ == "Network"
    alone = measure_alone(Origin(str(tmp_path / "out" / "model.lac"), f"{mine}:data"), "onnxruntime", 1)
    assert alone["accuracy"] == receipt["after"]["accuracy"]
    assert run("report", tmp_path / "out") == 0
    assert "decoding" in capfd.readouterr().out
    verdict = verify(tmp_path / "out")
    assert not [check.name for check in verdict.checks if not check.ok and not any(word in check.name for word in SPEED)]
    assert {"after.decode_seconds", "after.decode_memory_bytes"} <= {check.name for check in verdict.checks}


def test_a_packed_network_is_exported_again(pruned, tmp_path, capfd):
    assert run("export", "--model", pruned[0].path, "--out", tmp_path / "a.lac", "--runtime", "lac") == 0
    assert (tmp_path / "a.lac").read_bytes() == pruned[0].path.read_bytes()


def test_a_network_of_the_zoo_is_delivered_under_its_name_too(tmp_path, capfd, here):
    """`named.lac` is smaller by the graph, and verified tensor by tensor."""
    (tmp_path / "recipe.yaml").write_text("- prune.Magnitude: {sparsity: 0.8}\n")
    model, out = "zoo:digits_cnn?width=2", tmp_path / "out"
    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    save_file({name: tensor.clone() for name, tensor in digits_cnn(width=2).state_dict().items()}, weights)
    words = ["--recipe", tmp_path / "recipe.yaml", "--model", model, "--weights", weights, "--data", "digits", "--out", out]
    assert run("compress", *words, "--runtime", "lac", "--json") == 0
    after = json.loads(capfd.readouterr().out)["after"]
    assert after["named_bytes"] == (out / NAMED).stat().st_size < after["file_bytes"] == (out / "model.lac").stat().st_size
    assert same_weights(read_program(out / NAMED), read_program(out / "model.lac"))
    claims = {check.name: check.ok for check in verify(out).checks}
    assert claims["after.named_bytes"]
    assert claims["named.lac is the same network"]
    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    save_file({name: tensor.clone() for name, tensor in digits_cnn(width=2).state_dict().items()}, other)
    assert run("pack", other, "-o", out / NAMED, "--lossless", "--network", model) == 0
    assert not {check.name: check.ok for check in verify(out).checks}["named.lac is the same network"]
    (out / NAMED).unlink()
    with pytest.raises(LaconicError, match=r"named.lac is missing"):
        verify(out)
    capfd.readouterr()
    assert run("compress", *words, "--json") == 0
    assert json.loads(capfd.readouterr().out)["after"]["named_bytes"] is None


def test_a_network_that_is_no_longer_the_architecture_is_not_written_under_its_name(tmp_path):
    program = capture(digits_cnn(width=3).eval(), (torch.randn(2, 1, 8, 8),))
    assert write_named(program, "zoo:digits_cnn?width=2", tmp_path / NAMED) is None
    assert not (tmp_path / NAMED).exists()
