import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from laconic.errors import LaconicError
from laconic.pack.file import lines, pack_at_rate, pack_exactly
from laconic.pack.reader import contents, read
from laconic.pack.tensors import METADATA, write_arrays
from laconic.program import capture, load, represent, save
from laconic.program.forms import Mask
from test_cli import run

DRAW = np.random.default_rng(0)


def network():
    draw = {name: DRAW.laplace(size=shape).astype(np.float32) * 0.1 for name, shape in (("a", (40, 60)), ("b", (8, 40, 3, 3)))}
    return {**draw, "a.bias": DRAW.normal(size=40).astype(np.float32), "count": np.array(7)}


@pytest.mark.parametrize("rate", [2.0, 3.0])
def test_the_rate_of_the_whole_file_is_met_and_nearly_used_up(rate):
    arrays = network()
    packed = pack_at_rate(arrays, {}, rate)
    weights = arrays["a"].size + arrays["b"].size
    assert packed.weights == weights
    assert 0.95 * rate < 8 * len(packed.data) / weights <= rate
    found = read(packed.data)
    assert found["count"] == 7
    assert np.abs(found["a.bias"] - arrays["a.bias"]).max() < 2e-3
    assert sum(row.bytes for row in packed.rows) < len(packed.data)


def test_one_step_for_all_gives_both_tensors_the_same_error():
    packed = pack_at_rate(network(), {}, 2.5)
    errors = [row.quality.mean_square_error for row in packed.rows if row.quality]
    assert max(errors) < 1.2 * min(errors)
    assert all(row.bits > row.quality.shannon_bound for row in packed.rows if row.quality)
    assert "Shannon bound" in next(lines(packed))


def test_a_sparse_network_of_few_values_becomes_far_smaller_to_the_bit():
    dense = DRAW.choice(np.float32([-0.5, -0.25, 0.25, 0.5]), (100, 200))
    sparse = np.where(DRAW.random((100, 200)) < 0.05, dense, np.float32(0))
    packed = pack_exactly({"w": sparse}, {})
    assert read(packed.data)["w"].tobytes() == sparse.tobytes()
    entropy = -(0.95 * np.log2(0.95) + 0.05 * np.log2(0.05)) + 0.05 * 2
    assert 8 * len(packed.data) / sparse.size < 1.12 * entropy


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"w": np.full((3, 4), np.nan, np.float32)}, "12 of 12 entries of 'w' are NaN or infinite"),
        ({"b": np.zeros(5, np.float32)}, "there are no weights"),
        ({"w": np.zeros((3, 4), np.complex64)}, "the tensor 'w' is complex64"),
        ({"é": np.zeros((3, 4), np.float32)}, "must be named in ASCII"),
        ({'a"b': np.zeros((3, 4), np.float32)}, "without quotes and backslashes"),
        ({"a\\b": np.zeros((3, 4), np.float32)}, "without quotes and backslashes"),
        ({"w": np.ones((3, 4), np.float32), "b": DRAW.normal(size=500).astype(np.float32)}, "1 bits per weight cannot be met"),
    ],
)
def test_what_cannot_be_packed_is_refused(arrays, said):
    with pytest.raises(LaconicError, match=said):
        pack_at_rate(arrays, {}, 1.0)


def test_a_file_comes_back_to_the_bit_with_its_metadata_and_bfloat16(tmp_path, capfd):
    tensors = {
        "a": torch.randn(5, 6),
        "b": torch.randn(7).bfloat16(),
        "c": torch.tensor([1, 2]),
        "d": torch.zeros(3, 0),
        "e": torch.tensor(True),
    }
    save_file(tensors, tmp_path / "a.safetensors", {"who": "né", "format": "pt"})
    assert run("pack", tmp_path / "a.safetensors", "-o", tmp_path / "a.lac", "--lossless") == 0
    assert run("unpack", tmp_path / "a.lac", "-o", tmp_path / "b.safetensors") == 0
    found = load_file(tmp_path / "b.safetensors")
    assert found.keys() == tensors.keys()
    assert all(found[name].dtype == each.dtype and torch.equal(found[name], each) for name, each in tensors.items())
    assert (tmp_path / "b.safetensors").read_bytes()[8:300].find(b"who") > 0


@pytest.mark.parametrize("how", [["--lossless"], ["--bits-per-weight", "9"]])
def test_a_saved_program_is_one_again(tmp_path, how):
    torch.manual_seed(0)
    program = capture(nn.Sequential(nn.Linear(20, 100), nn.ReLU(), nn.Linear(100, 50)), (torch.randn(2, 20),))
    if how == ["--lossless"]:
        represent(program, "0.weight", Mask(torch.rand(100, 20) < 0.2))
    save(program, tmp_path / "a.safetensors", pack=True)
    assert run("pack", tmp_path / "a.safetensors", "-o", tmp_path / "a.lac", *how) == 0
    assert run("unpack", tmp_path / "a.lac", "-o", tmp_path / "b.safetensors") == 0
    inputs = torch.randn(50, 20)
    wanted, found = program(inputs), load(tmp_path / "b.safetensors")(inputs)
    assert torch.equal(found, wanted) if how == ["--lossless"] else (found - wanted).abs().max() < 0.1 * wanted.abs().max()


@pytest.mark.parametrize("how", [["--lossless"], ["--bits-per-weight", "3"]])
def test_a_file_for_speed_holds_the_same(tmp_path, how):
    tensors = {"w": (DRAW.laplace(size=(40, 60)) * 8).round().astype(np.float32), "b": DRAW.normal(size=7).astype(np.float32)}
    save_file({name: torch.from_numpy(each) for name, each in tensors.items()}, tmp_path / "a.safetensors")
    assert run("pack", tmp_path / "a.safetensors", "-o", tmp_path / "a.lac", "--fast", *how) == 0
    assert run("unpack", tmp_path / "a.lac", "-o", tmp_path / "b.safetensors") == 0
    header, _ = contents((tmp_path / "a.lac").read_bytes())
    found = load_file(tmp_path / "b.safetensors")["w"].numpy()
    assert header["lanes"][0] == 16
    assert np.square(found - tensors["w"]).mean() <= (0 if how == ["--lossless"] else 0.1 * tensors["w"].var())


@pytest.mark.parametrize("text", ["no JSON", "7", '{"who": 7}'])
def test_metadata_that_are_none_are_refused(tmp_path, text):
    with pytest.raises(LaconicError, match="the metadata in"):
        write_arrays(tmp_path / "a.safetensors", {METADATA: np.frombuffer(text.encode(), np.uint8)}, {})


def test_the_command_tells_every_tensor_as_json(tmp_path, capfd):
    save_file({name: torch.from_numpy(np.array(each)) for name, each in network().items()}, tmp_path / "a.safetensors")
    assert run("pack", tmp_path / "a.safetensors", "-o", tmp_path / "a.lac", "--bits-per-weight", "3", "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["file_bytes"] == (tmp_path / "a.lac").stat().st_size
    assert {row["name"]: row["form"] for row in told["tensors"]}["b"] == "grid"
    assert told["tensors"][0]["gaussian_bound"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "say how"),
        (["--lossless", "--bits-per-weight", "2"], "say how"),
        (["--bits-per-weight", "0"], "must be above 0"),
        (["--bits-per-weight", "2", "--states", "5"], "--states must be"),
        (["--lossless", "-o", "x.zip"], "must be a .lac file"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, said, capfd):
    save_file({"a": torch.randn(5, 6)}, tmp_path / "a.safetensors")
    assert run("pack", tmp_path / "a.safetensors", "-o", tmp_path / "a.lac", *options) == 2
    assert said in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "a.lac").exists()


def test_a_damaged_file_and_one_beyond_the_limit_are_refused(tmp_path, capfd):
    save_file({"a": torch.randn(50, 60)}, tmp_path / "a.safetensors")
    run("pack", tmp_path / "a.safetensors", "-o", tmp_path / "a.lac", "--lossless")
    assert run("unpack", tmp_path / "a.lac", "-o", tmp_path / "b.safetensors", "--limit", "1000") == 2
    (tmp_path / "a.lac").write_bytes((tmp_path / "a.lac").read_bytes()[:-3])
    assert run("unpack", tmp_path / "a.lac", "-o", tmp_path / "b.safetensors") == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "beyond the limit of 1000 bytes" in said
    assert "damaged" in said
    assert not (tmp_path / "b.safetensors").exists()
