import pytest
import torch
from torch import nn

from laconic.errors import LaconicError
from laconic.program import Mask, capture, read, represent, weights
from networks import NETWORKS, captured

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")

EXPECTED = {  # by hand: name and kind of every weight, in the order of computation
    "convolution": [("features.0.0.weight", "conv2d"), ("features.2.0.weight", "conv2d"), ("classifier.weight", "linear")],
    "attention": [("attention.in_proj_weight", "linear"), ("attention.out_proj.weight", "linear"), ("fc.weight", "linear")],
    "tied": [("decoder.weight", "embedding"), ("hidden.weight", "linear")],
    "lstm": [("recurrent.weight_ih_l0", "lstm"), ("recurrent.weight_hh_l0", "lstm"), ("fc.weight", "linear")],
    "gru": [("recurrent.weight_ih_l0", "gru"), ("recurrent.weight_hh_l0", "gru"), ("fc.weight", "linear")],
    "one-dimensional": [("features.0.weight", "conv1d"), ("features.3.weight", "conv1d"), ("fc.weight", "linear")],
    "norms": [("first.weight", "conv2d"), ("fc.weight", "linear")],
    "no-grad": [("frozen.weight", "linear"), ("fc.weight", "linear")],
    "root-parameters": [("patches.weight", "conv2d"), ("fc.weight", "linear")],
}


def program(name="convolution"):
    return captured(name)[0]


def names(found):
    return [weight.name for weight in found]


@pytest.mark.parametrize("name", EXPECTED)
def test_all_weights_are_listed_once_in_order_with_their_kind(name):
    network = program(name)
    found = [(network.aliases.get(weight.name, weight.name), weight.kind) for weight in weights(network)]
    expected = [(network.aliases.get(known, known), kind) for known, kind in EXPECTED[name]]
    assert found == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_the_axis_is_that_of_the_output_channels_and_the_value_what_the_graph_reads(name):
    network = program(name)
    for weight in weights(network):
        assert torch.equal(weight.value, read(network, weight.name))
        assert not weight.value.requires_grad
        for reader in weight.readers:
            assert any(node.target == weight.name for node in reader.all_input_nodes)
            if weight.kind.startswith("conv"):
                assert reader.meta["val"].shape[1] == weight.value.shape[weight.axis]
            if weight.kind == "linear":
                assert reader.meta["val"].shape[-1] == weight.value.shape[weight.axis]


@pytest.mark.parametrize(("dimensions", "kind"), [(1, "conv_transpose1d"), (2, "conv_transpose2d"), (3, "conv_transpose3d")])
def test_a_transposed_convolution_has_its_channels_on_axis_one(dimensions, kind):
    layer = getattr(nn, f"ConvTranspose{dimensions}d")(3, 5, 2)
    (weight,) = weights(capture(layer, (torch.randn(2, 3, *[4] * dimensions),)))
    assert (weight.kind, weight.axis, weight.value.shape[weight.axis]) == (kind, 1, 5)


def test_a_convolution_of_three_dimensions_is_found():
    (weight,) = weights(capture(nn.Conv3d(3, 5, 3, padding="same"), (torch.randn(2, 3, 4, 4, 4),)))
    assert (weight.kind, weight.axis) == ("conv3d", 0)


def test_a_tied_weight_is_listed_once_with_both_readers():
    tied = weights(program("tied"))[0]
    assert [reader.target for reader in tied.readers] == [torch.ops.aten.embedding.default, torch.ops.aten.linear.default]


def test_the_value_is_that_of_the_represented_weight():
    network = program()
    represent(network, "classifier.weight", Mask(torch.zeros(5, 8, dtype=torch.bool)))
    assert not weights(network, include=("classifier",))[0].value.any()


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ((), (), ["features.0.0.weight", "features.2.0.weight", "classifier.weight"]),
        (("features*",), (), ["features.0.0.weight", "features.2.0.weight"]),
        (("classifier",), (), ["classifier.weight"]),
        (("*.0.weight",), (), ["features.0.0.weight", "features.2.0.weight"]),
        (("features.[2-9].0",), (), ["features.2.0.weight"]),
        ((), ("features.0*",), ["features.2.0.weight", "classifier.weight"]),
        (("features*", "classifier"), ("*.2.*",), ["features.0.0.weight", "classifier.weight"]),
    ],
)
def test_patterns_choose_by_the_name_of_weight_or_layer_and_exclusion_is_stronger(include, exclude, expected):
    assert names(weights(program(), include, exclude)) == expected


def test_kinds_choose():
    assert names(weights(program(), kinds=("linear",))) == ["classifier.weight"]
    assert names(weights(program(), kinds=("conv2d",))) == ["features.0.0.weight", "features.2.0.weight"]


def test_kinds_may_be_any_iterable():
    assert len(weights(program(), kinds=iter(("conv2d", "linear")))) == 3


@pytest.mark.parametrize("where", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error_with_near_names(where):
    with pytest.raises(LaconicError, match=r"'clasifier\.weight'; did you mean 'classifier\.weight'\? There are: .*features\.0\.0\.weight"):
        weights(program(), **{where: ("features*", "clasifier.weight")})


def test_a_pattern_that_matches_only_other_kinds_is_an_error():
    with pytest.raises(LaconicError, match="unknown layer pattern 'classifier'"):
        weights(program(), include=("classifier",), kinds=("conv2d",))


def test_nothing_left_is_an_error_that_lists_what_there_is():
    with pytest.raises(LaconicError, match=r"no weight is left .*features\.2\.0\.weight"):
        weights(program(), exclude=("*",))
    with pytest.raises(LaconicError, match="no layers of the kinds lstm"):
        weights(program(), kinds=("lstm",))
