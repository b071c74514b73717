"""Programs in `.lac` files: every form comes back computing the same, to the bit, and the graph costs little."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from laconic.errors import LaconicError
from laconic.numeric.codebook import normal_float
from laconic.pack.file import pack_at_rate, pack_exactly
from laconic.pack.loops import loops
from laconic.pack.programs import PROGRAM, arrays_of, program_of
from laconic.pack.reader import contents
from laconic.program import Codebook, Half, Mask, Shared, Uniform, capture, clone, dense_state, read, represent
from laconic.program.represent import representations
from laconic.quantize import Static
from laconic.zoo.lenet import lenet5
from networks import captured


def there_and_back(program):
    arrays = arrays_of(program)
    return program_of(contents(pack_exactly(arrays.arrays, {}, arrays.weights).data, loops=loops())[1])


def same(one, other, inputs):
    with torch.no_grad():
        assert torch.equal(one(*inputs), other(*inputs))
    state = dense_state(other)
    return all(torch.equal(tensor, state[name]) for name, tensor in dense_state(one).items())


def grouped(weight):
    size = weight.abs().flatten(1).amax(1, keepdim=True).expand(-1, 2)
    return Uniform(size / 7, torch.randint(3, 9, size.shape).float(), 4, False, 0, torch.arange(weight.shape[1]) * 2 // weight.shape[1])


def form_of(weight, groups, holds_zero=False):
    """Random centroids, one of them 0 where 0 has a code as well, and random codes."""
    codebook = torch.randn(groups, 9)
    codebook[:, 4] *= not holds_zero
    group = torch.arange(len(weight)) % groups if groups > 1 else None
    return Shared(codebook, torch.randint(9 + holds_zero, weight.shape), 0, group, holds_zero)


FORMS = {
    "plain": None,
    "int8": lambda w: Uniform(w.abs().amax(1) / 127, None, 8, True, 0),
    "uint8 with zero points": lambda w: Uniform(w.abs().max() / 100, torch.tensor(110.0), 8, False),
    "grouped uint4": grouped,
    "nf4": lambda w: Codebook(w.abs().amax(1), normal_float(), "nf4", 0),
    "binary": lambda w: Codebook(w.abs().mean(1), torch.tensor([-1.0, 1.0]), "binary", 0),
    "shared": lambda w: form_of(w, 1),
    "shared in groups, with 0": lambda w: form_of(w, 3, True),
    "shared, all above 0": lambda w: Shared(torch.rand(1, 6) + 0.1, torch.randint(6, w.shape)),
    "float16": lambda _: Half("float16"),
    "bfloat16": lambda _: Half("bfloat16"),
}


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    return capture(nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 10)), (torch.randn(2, 24),))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_comes_back_to_the_bit(form, masked, dense):
    program = clone(dense)
    weight = read(program, "0.weight").detach()
    if FORMS[form]:
        represent(program, "0.weight", FORMS[form](weight))
    if masked:
        represent(program, "0.weight", Mask(torch.rand(weight.shape) < 0.4))
    found = there_and_back(program)
    assert same(program, found, (torch.randn(5, 24),))
    assert [type(each) for each in representations(found, "0.weight")] == [type(each) for each in representations(program, "0.weight")]


def test_a_mask_is_written_only_where_the_grid_has_no_zero(dense):
    for form in FORMS:
        program = clone(dense)
        if FORMS[form]:
            represent(program, "0.weight", FORMS[form](read(program, "0.weight").detach()))
        represent(program, "0.weight", Mask(torch.rand(40, 24) < 0.4))
        assert ("0.weight.keep" in arrays_of(program).arrays) == (form in ("binary", "shared in groups, with 0"))


def test_codes_lie_in_the_shape_of_their_tensor_and_count_from_zero(dense):
    program = clone(dense)
    weight = read(program, "0.weight").detach()
    represent(program, "0.weight", FORMS["uint8 with zero points"](weight))
    found = arrays_of(program)
    codes, step = found.arrays["0.weight.codes"], found.arrays["0.weight.scale"]
    np.testing.assert_allclose(codes * step, weight, atol=float(step) / 2 + 1e-6)
    assert "0.weight.codes" in found.weights & found.exact


@pytest.mark.parametrize("name", ["attention", "tied", "lstm", "root-parameters", "buffers", "two-inputs"])
def test_networks_of_other_kinds_come_back(name):
    program, inputs = captured(name)
    assert same(program, there_and_back(program), inputs)


def test_quantized_activations_come_back(program, context):
    quantized = Static()(program, context)
    assert same(quantized, there_and_back(quantized), context.example(20))


def test_with_loss_only_numbers_that_are_weights_change(dense):
    program = clone(dense)
    represent(program, "0.weight", FORMS["int8"](read(program, "0.weight").detach()))
    taken = arrays_of(program)
    found = program_of(contents(pack_at_rate(taken.arrays, {}, 12.0, 8, taken.weights, taken.exact).data, loops=loops())[1])
    assert torch.equal(read(found, "0.weight"), read(program, "0.weight"))
    lost = (read(found, "2.weight") - read(program, "2.weight")).abs().max()
    assert 0 < lost < 0.1


def test_the_graph_of_a_lenet_costs_a_few_hundred_bytes_and_names_no_folder():
    arrays = arrays_of(capture(lenet5(), (torch.randn(2, 1, 28, 28),))).arrays
    [row] = pack_exactly({PROGRAM: arrays[PROGRAM]}, {}).rows
    assert row.form == "text"
    assert row.bytes < 350
    assert b"lenet.py" not in arrays[PROGRAM].tobytes()


def changed(arrays, change):
    described = json.loads(arrays[PROGRAM].tobytes())
    change(described)
    return {**arrays, PROGRAM: np.frombuffer(json.dumps(described).encode(), np.uint8)}


def test_what_is_no_program_or_does_not_fit_is_refused(dense):
    program = clone(dense)
    represent(program, "0.weight", FORMS["int8"](read(program, "0.weight").detach()))
    arrays = arrays_of(program).arrays
    beyond = {**arrays, "0.weight.codes": np.full((40, 24), 500, np.float16)}
    for given, said in [
        ({name: array for name, array in arrays.items() if name != PROGRAM}, "tensors but no program"),
        ({**arrays, PROGRAM: np.frombuffer(b"7", np.uint8)}, "not whole"),
        (changed(arrays, lambda described: described.update(format="9")), "format 9, this version of laconic reads format 2"),
        (changed(arrays, lambda described: described.pop("graph")), "does not fit"),
        ({name: array for name, array in arrays.items() if name != "2.bias"}, "does not fit"),
        ({**arrays, "0.weight.codes": np.zeros((3, 3), np.float16)}, "not \\(40, 24\\)"),
        (beyond, "beyond its grid"),
    ]:
        with pytest.raises(LaconicError, match=said):
            program_of(given)
