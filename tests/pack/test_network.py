"""Files that name an architecture of the zoo in place of carrying its graph."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import laconic
from laconic.errors import LaconicError
from laconic.pack.network import NETWORK, check_fit, named, named_arrays, program_in, read_program, same_weights, write_named
from laconic.program import capture, clone, dense_state, load, place, read, save
from laconic.prune import Filters
from laconic.quantize import Static
from laconic.zoo.digits import digits_cnn
from test_cli import run

SPEC = "zoo:digits_cnn?width=2"


@pytest.fixture(scope="module")
def digits():
    torch.manual_seed(0)
    return capture(digits_cnn(width=2).eval(), (torch.randn(2, 1, 8, 8),))


@pytest.fixture(scope="module")
def packed(digits, tmp_path_factory):
    """The network in two files: `named.lac` and `whole.lac`."""
    folder = tmp_path_factory.mktemp("packed")
    save(digits, folder / "a.safetensors")
    for name, more in (("named", ["--network", SPEC]), ("whole", [])):
        assert run("pack", folder / "a.safetensors", "-o", folder / f"{name}.lac", "--lossless", *more) == 0
    return folder


def test_a_named_file_holds_the_tensors_alone_and_computes_the_same(digits, packed):
    sizes = [(packed / f"{name}.lac").stat().st_size for name in ("named", "whole")]
    assert 100 < sizes[1] - sizes[0] < 3000
    inputs = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    outputs = [laconic.load(packed / f"{name}.lac")(inputs) for name in ("named", "whole")]
    np.testing.assert_allclose(outputs[0], digits(torch.from_numpy(inputs)).detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_bare_weights_of_a_named_network_need_no_model(digits, tmp_path, capfd):
    save_file({name: tensor.clone() for name, tensor in digits_cnn(width=2).state_dict().items()}, tmp_path / "a.safetensors")
    assert run("pack", tmp_path / "a.safetensors", "-o", tmp_path / "a.lac", "--bits-per-weight", "20", "--network", SPEC) == 0
    assert read_program(tmp_path / "a.lac").inputs == digits.inputs


@pytest.mark.parametrize("to", ["onnx", "pt2", "safetensors"])
def test_a_named_file_is_unpacked_to_every_kind(to, digits, packed, tmp_path, capfd):
    assert run("unpack", packed / "named.lac", "-o", tmp_path / f"b.{to}") == 0
    inputs = torch.randn(5, 1, 8, 8)
    match to:
        case "onnx":
            found = laconic.load(tmp_path / "b.onnx")(inputs.numpy())
        case "pt2":
            found = torch.export.load(tmp_path / "b.pt2").module()(inputs).detach().numpy()
        case _:
            found = load(tmp_path / "b.safetensors")(inputs).detach().numpy()
    np.testing.assert_allclose(found, digits(inputs).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["zoo:lenet6", "lenet5", "os.py:system", "zoo:../x", "timm:resnet18", 7, None])
def test_a_name_is_looked_up_in_the_zoo_and_nowhere_else(name):
    with pytest.raises(LaconicError, match="unknown network"):
        program_in({NETWORK: name}, {})


def test_tensors_that_do_not_fit_are_told(digits):
    state = {name: tuple(tensor.shape) for name, tensor in dense_state(digits).items()}
    first = next(iter(state))
    network = named(SPEC)
    check_fit(network, state, SPEC)
    for given, said in [
        ({name: shape for name, shape in state.items() if name != first}, f"{first} is missing"),
        ({**state, "more": (2,)}, "more is unknown there"),
        ({**state, first: (1, 2)}, rf"{first} is \(1, 2\), there"),
    ]:
        with pytest.raises(LaconicError, match=said):
            check_fit(network, given, SPEC)


def test_a_network_whose_filters_were_cut_is_named_and_comes_back_as_narrow(digits, context, tmp_path):
    cut = Filters(ratio=0.5, importance="l2", recovery="none")(clone(digits), context)
    whole, narrow = (write_named(each, SPEC, tmp_path / f"{name}.lac") for each, name in ((digits, "whole"), (cut, "narrow")))
    assert narrow < whole / 1.5
    found, inputs = read_program(tmp_path / "narrow.lac"), torch.randn(5, 1, 8, 8)
    assert same_weights(found, cut)
    torch.testing.assert_close(found(inputs), cut.eval()(inputs))


def test_shapes_that_no_cut_leads_to_are_told(digits):
    state = {name: tensor.numpy() for name, tensor in dense_state(digits).items() if "tracked" not in name}
    weight = next(name for name, array in state.items() if array.ndim == 4)
    with pytest.raises(LaconicError, match=f"the tensors are not those of {SPEC[:9]}.*: {weight} is "):
        program_in({NETWORK: SPEC}, {**state, weight: state[weight][:, :, :1]})


def test_a_program_that_computes_something_else_is_not_named(digits):
    program = clone(digits)
    activation = next(node for node in program.graph.nodes if node.target is torch.ops.aten.relu.default)
    activation.target = torch.ops.aten.tanh.default
    program.recompile()
    with pytest.raises(LaconicError, match="computes something else"):
        named_arrays(program, SPEC)


def test_a_program_with_quantized_activations_is_not_named(program, context):
    with pytest.raises(LaconicError, match="activations are quantized"):
        named_arrays(Static()(program, context), SPEC)


def test_naming_a_network_leaves_torch_at_its_random_state():
    before = torch.get_rng_state()
    named(SPEC)
    assert torch.equal(before, torch.get_rng_state())


def test_weights_that_are_no_numbers_are_refused_with_loss_and_kept_without(digits, tmp_path, capfd):
    program = clone(digits)
    name = next(name for name, tensor in dense_state(program).items() if tensor.ndim > 1)
    place(program, name, torch.full_like(read(program, name), torch.nan))
    save(program, tmp_path / "a.safetensors")
    assert run("pack", tmp_path / "a.safetensors", "-o", tmp_path / "a.lac", "--bits-per-weight", "4") == 2
    assert "are NaN or infinite" in " ".join(capfd.readouterr().err.split())


def test_files_of_tensors_alone_are_no_network(tmp_path, capfd):
    save_file({"a": torch.randn(5, 6)}, tmp_path / "a.safetensors")
    run("pack", tmp_path / "a.safetensors", "-o", tmp_path / "a.lac", "--lossless")
    assert run("unpack", tmp_path / "a.lac", "-o", tmp_path / "a.onnx") == 2
    assert "tensors but no network" in " ".join(capfd.readouterr().err.split())
    with pytest.raises(LaconicError, match="tensors but no program"):
        laconic.load(tmp_path / "a.lac")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-drop", "1"], "--max-drop needs --data"),
        (["--max-drop", "1", "--data", "digits"], "--max-drop needs the --model"),
        (["--max-drop", "101", "--data", "digits"], "from 0 to 100"),
        (["--lossless", "--model", "zoo:digits_cnn"], "--model needs --data"),
        (["--lossless", "--network", "zoo:digits_cn"], "did you mean"),
    ],
)
def test_options_that_lack_others_are_refused(options, said, tmp_path, capfd):
    save_file({"a": torch.randn(5, 6)}, tmp_path / "a.safetensors")
    assert run("pack", tmp_path / "a.safetensors", "-o", tmp_path / "a.lac", *options) == 2
    assert said in " ".join(capfd.readouterr().err.split())
