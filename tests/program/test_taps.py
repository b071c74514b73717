"""Places where networks are compared: where they are, which go together, and what is read there."""

import pytest
import torch

from laconic import zoo
from laconic.errors import LaconicError
from laconic.program import capture
from laconic.program.taps import matched, named, tapped, taps
from networks import captured


def of(name):
    model = zoo.load(name)
    return capture(model, zoo.example(name, model))


def test_stages_of_a_residual_network_go_with_those_of_a_deeper_one():
    pairs = matched(taps(of("resnet20")), taps(of("resnet56")))
    assert [(ours.name, theirs.name) for ours, theirs in pairs] == [
        ("layer1.2.conv2", "layer1.8.conv2"),
        ("layer2.2.conv2", "layer2.8.conv2"),
        ("layer3.2.conv2", "layer3.8.conv2"),
        ("layer3.2.conv2", "layer3.8.conv2"),
    ]
    assert [ours.positions for ours, _ in pairs] == [(32, 32), (16, 16), (8, 8), ()]
    assert [ours.channels for ours, _ in pairs] == [16, 32, 64, 64]


def test_layers_of_a_transformer_go_by_depth_and_have_their_channels_last():
    places = taps(of("char_transformer"))
    pairs = matched(places, places)
    assert all(ours == theirs for ours, theirs in pairs)
    assert len(pairs) == 3
    assert all(tap.axis == 2 and tap.channels == 192 for tap, _ in pairs)
    assert [round(tap.depth, 1) for tap, _ in pairs] == [0.3, 0.7, 1.0]


def test_what_is_read_at_a_place_is_what_the_next_layer_reads():
    program = of("lenet5")
    places = taps(program)
    assert [str(tap) for tap in places] == [
        "conv1 (20 channels, 12x12 positions)",
        "conv2 (50 channels, 4x4 positions)",
        "conv2 (800 channels)",
        "fc1 (500 channels)",
    ]
    inputs = torch.randn(3, 1, 28, 28)
    logits, *values = tapped(program, [tap.node for tap in places])(inputs)
    torch.testing.assert_close(logits, program(inputs))
    weight, bias = program.get_parameter("fc2.weight"), program.get_parameter("fc2.bias")
    torch.testing.assert_close(values[3] @ weight.T + bias, logits)
    assert [tuple(value.shape[1:]) for value in values] == [(20, 12, 12), (50, 4, 4), (800,), (500,)]


def test_a_tapped_program_shares_its_weights_and_has_a_mode_of_its_own():
    program, example = captured("residual")
    shared = tapped(program, [taps(program)[0].node])
    logits, _ = shared.train()(*example)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in program.parameters())
    assert {id(parameter) for parameter in shared.parameters()} == {id(parameter) for parameter in program.parameters()}
    assert "True" not in str([node.args for node in program.graph.nodes if "batch_norm" in str(node.target)])


def test_places_are_found_by_name_or_all_are_listed():
    places = taps(of("lenet5"))
    [(ours, theirs)] = named(places, places, [("conv1", "fc1")])
    assert (ours.name, theirs.name) == ("conv1", "fc1")
    with pytest.raises(LaconicError, match=r"no place behind a layer 'conv9'; the student's: conv1 \(20 channels.*the teacher's: conv1"):
        named(places, places, [("conv1", "conv9")])
    with pytest.raises(LaconicError, match=r"no place of the student has as many positions.*the teacher's: none"):
        matched(places, [])
