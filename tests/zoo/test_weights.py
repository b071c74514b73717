import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from laconic.errors import LaconicError
from laconic.zoo import load, load_weights


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def other():
    torch.manual_seed(2)
    model = network()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def same(model, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items() if name in state)


def save(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
def test_weights_are_loaded_from_every_kind_of_file(tmp_path, name):
    model, state = network(), other().state_dict()
    load_weights(model, save(state, tmp_path / name))
    assert same(model, state)


def test_a_state_dict_under_its_usual_name_is_found(tmp_path):
    model, state = network(), other().state_dict()
    load_weights(model, save({"epoch": 3, "state_dict": state}, tmp_path / "w.pt"))
    assert same(model, state)


def test_only_step_counters_may_lack(tmp_path):
    model, state = network(), other().state_dict()
    del state["1.num_batches_tracked"]
    load_weights(model, save(dict(state), tmp_path / "w.safetensors"))
    assert same(model, state)


def changed(**changes):
    state = dict(other().state_dict())
    for name, tensor in changes.items():
        del state[name.replace("_", ".", 1)]
        state.update(tensor)
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed(**{"0_weight": {}}), "1 missing: 0.weight$"),
        (
            changed(**{"0_weight": {"0.weights": torch.ones(4, 3)}}),
            r"1 missing: 0.weight \(near: 0.weights\); 1 not in the network: 0.weights",
        ),
        (changed(**{"0_weight": {"0.weight": torch.ones(3, 4)}}), r"0.weight is \(3, 4\), the network's is \(4, 3\)"),
        (changed(**{"2_bias": {"2.bias": torch.tensor([1, torch.nan])}}), "1 of 2 numbers of '2.bias' .* are NaN or infinite"),
        (changed(**{"1_running_var": {"1.running_var": torch.full((4,), torch.inf)}}), "4 of 4 numbers of '1.running_var'"),
        ({f"block{number}": torch.ones(1) for number in range(9)}, r"9 not in the network: block0, block1, block2, block3, block4, \.\.\."),
    ],
)
def test_weights_that_do_not_fit_are_told_and_the_network_stays(tmp_path, state, message):
    model, before = network(), network().state_dict()
    with pytest.raises(LaconicError, match=message):
        load_weights(model, save(state, tmp_path / "w.safetensors"))
    assert same(model, before)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize(
    "damage", [lambda content: content[:-40], lambda content: content[:20], lambda content: b"", lambda content: b"x" * 99]
)
def test_a_damaged_file_is_told(tmp_path, name, damage):
    path = save(other().state_dict(), tmp_path / name)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LaconicError, match="is not a whole"):
        load_weights(network(), path)


def test_a_file_that_needs_a_pickle_is_told_with_how_to_save_one(tmp_path):
    for path in (tmp_path / "zip.pt", tmp_path / "old.pt"):
        torch.save(network(), path, _use_new_zipfile_serialization=path.stem == "zip")
        with pytest.raises(
            LaconicError,
            match=r"holds a torch.nn.modules.\S+ and could only be read by running its pickle.*save one with .*state_dict",
        ):
            load_weights(network(), path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"a": {"b": torch.ones(1)}}, {}, torch.ones(3)])
def test_a_file_without_a_state_dict_is_told(tmp_path, content):
    with pytest.raises(LaconicError, match="must hold a state dict"):
        load_weights(network(), save(content, tmp_path / "w.pt"))


def test_a_bin_file_of_torch_is_told_from_one_of_llama2c(tmp_path):
    model = network()
    load_weights(model, save(other().state_dict(), tmp_path / "w.bin"))
    assert same(model, other().state_dict())
    (tmp_path / "w.bin").write_bytes(b"x" * 99)
    with pytest.raises(LaconicError, match=r"not a file of llama2\.c"):
        load_weights(model, tmp_path / "w.bin")


def test_a_plain_pickle_is_not_run(tmp_path):
    (tmp_path / "w.pt").write_bytes(pickle.dumps(eval))
    with pytest.raises(LaconicError, match=r"is not a whole file of torch.save; save one with"):
        load_weights(network(), tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("name", "message"), [("absent.pt", "no weights file .*absent.pt"), ("w.txt", "must be a .safetensors, .pt or .pth")]
)
def test_an_absent_file_or_another_kind_is_told(tmp_path, name, message):
    (tmp_path / "w.txt").touch()
    with pytest.raises(LaconicError, match=message):
        load("lenet5", tmp_path / name)
