"""What a network is made of, and the command that lists it."""

import json

import pytest
import torch
from torch import nn

from laconic.anatomy import anatomy, plain, taken_apart
from laconic.errors import LaconicError
from laconic.job import Origin
from laconic.program import capture, clone, cost, packed_bytes, save
from laconic.program.cut import cut
from laconic.program.groups import find
from networks import NETWORKS, captured
from test_cli import run, user_file


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    return user_file(tmp_path_factory.mktemp("user"))


def macs(program):
    return sum(cost.macs(find(program).walk).values())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_channel_takes_with_it_what_cutting_it_saves(name):
    program, _ = captured(name)
    found = taken_apart(name, program)
    assert found.bytes == packed_bytes(program)
    for part in found.parts:
        small = cut(clone(program), {part.group.name: range(part.group.channels - 1)})
        assert part.macs_per_channel == found.macs - macs(small)
        assert part.bytes_per_channel == pytest.approx(found.bytes - packed_bytes(small), abs=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_group_carries_all_that_would_go_with_its_last_channel(name):
    program, _ = captured(name)
    found, walk = taken_apart(name, program), find(program).walk
    for part in found.parts:
        none = {part.group.symbol: range(0)}
        assert part.macs == found.macs - sum(cost.macs(walk, none).values())
        assert part.bytes == found.bytes - sum(cost.stored_bytes(walk, none).values())


def test_shares_of_a_small_network_are_those_counted_by_hand():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    [part] = taken_apart("by hand", capture(model, (torch.randn(2, 6),))).parts
    assert (part.group.channels, part.macs, part.macs_per_channel) == (8, 6 * 8 + 8 * 5, 6 + 5)
    assert (part.bytes, part.bytes_per_channel) == (4 * (6 * 8 + 8 + 8 * 5), 4 * (6 + 1 + 5))


def test_data_and_a_saved_program_show_what_they_take(mine, tmp_path):
    by_data = anatomy(Origin(f"{mine}:model", f"{mine}:data"))
    assert [each.shape for each in by_data.inputs] == [(4,)]
    program, _ = captured("two-inputs")
    save(program, tmp_path / "p.safetensors")
    assert [each.shape for each in anatomy(Origin(str(tmp_path / "p.safetensors"), "")).inputs] == [(4,), (3,)]


def test_inputs_are_said_once(mine):
    with pytest.raises(LaconicError, match="--data and --input"):
        anatomy(Origin(f"{mine}:model", f"{mine}:data"), "4")


def test_the_plain_form_is_json_with_a_fixed_set_of_fields():
    program, _ = captured("attention")
    found = json.loads(json.dumps(plain(taken_apart("attention", program))))
    assert set(found) == {"schema", "model", "inputs", "macs", "bytes", "groups", "frozen"}
    measured = {"macs", "macs_per_channel", "bytes", "bytes_per_channel"}
    assert {frozenset(group) for group in found["groups"]} == {
        frozenset({"name", "channels", "heads", "exact", "reason", "slots", *measured}),
    }
    assert {frozenset(slot) for group in found["groups"] for slot in group["slots"]} == {frozenset({"tensor", "axis", "size", "positions"})}
    assert {frozenset(each) for each in found["frozen"]} == {frozenset({"tensor", "axis", "size", "reason"})}
    assert found["inputs"] == [{"name": "x", "shape": [5, 8], "dtype": "float32"}]


def test_the_command_prints_tables_for_a_person_and_json_for_a_machine(capfd):
    assert run("groups", "zoo:lenet5") == 0
    printed = capfd.readouterr().out
    assert "conv1.weight[0]" in printed
    assert "the network's output" in printed
    assert run("groups", "zoo:lenet5", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert [group["channels"] for group in found["groups"]] == [20, 50, 500]


def test_a_network_that_cannot_be_captured_ends_with_2_and_names_the_line(mine, capfd):
    assert run("groups", f"{mine}:Branch", "--input", "4") == 2
    printed = capfd.readouterr()
    assert not printed.out
    line = 1 + mine.read_text().splitlines().index("        if outputs.sum() > 0:  # the line that cannot be captured")
    assert f"mine.py:{line}" in printed.err
    assert len(printed.err.strip().splitlines()) == 1


def test_inputs_that_nobody_knows_are_asked_for(mine, capfd):
    assert run("groups", f"{mine}:model") == 2
    assert "give --input" in capfd.readouterr().err
