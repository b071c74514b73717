"""The Llama architecture against complex numbers and its definition, and its weights as llama2.c writes them."""

import struct

import pytest
import torch
import torch.nn.functional as F

from laconic.errors import LaconicError
from laconic.program import capture
from laconic.zoo import load_weights
from laconic.zoo.char_transformer import char_transformer
from laconic.zoo.llama import Attention, Llama, angles, rotated, stories260k
from laconic.zoo.llama2c import read_llama2c

SIZES = {"vocabulary": 11, "width": 8, "layers": 2, "heads": 4, "shared_heads": 2, "hidden": 12}
HEADER = (8, 12, 2, 4, 2, 11, 5)
PER_LAYER = ("norm1", "attention.query", "attention.key", "attention.value", "attention.out", "norm2", "gate", "down", "up")


def tiny(seed=0):
    torch.manual_seed(seed)
    model = Llama(**SIZES)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def write(path, model, header=HEADER, cut=0):
    """As llama2.c's export.py: the same tensor of every layer, one after the other, then the tables of rotations."""
    state = model.state_dict()
    tensors = [state["tokens.weight"]]
    tensors += [state[f"blocks.{layer}.{name}.weight"] for name in PER_LAYER for layer in range(2)]
    tensors += [state["norm.weight"], *angles(5, 2)]
    body = b"".join(tensor.numpy().tobytes() for tensor in tensors)
    path.write_bytes(struct.pack("<7i", *header) + body[: len(body) - cut])
    return path


def test_rotary_positions_turn_pairs_as_complex_numbers():
    heads = torch.randn(2, 3, 7, 6)
    pairs = torch.view_as_complex(heads.reshape(2, 3, 7, 3, 2))
    exponents = torch.tensor([10000 ** (-2 * pair / 6) for pair in range(3)])
    turned = pairs * torch.exp(1j * torch.arange(7)[:, None] * exponents)
    torch.testing.assert_close(rotated(heads, *angles(7, 6)), torch.view_as_real(turned).flatten(-2))


def test_attention_is_the_causal_mean_of_values_with_two_heads_to_a_key():
    attention, hidden = Attention(8, 4, 2).eval(), torch.randn(1, 5, 8)
    query, key, value = (each(hidden)[0] for each in (attention.query, attention.key, attention.value))
    rows = []
    for head in range(4):
        own, shared = slice(2 * head, 2 * head + 2), slice(2 * (head // 2), 2 * (head // 2) + 2)
        q, k = (rotated(part[None], *angles(5, 2))[0] for part in (query[:, own], key[:, shared]))
        scores = (q @ k.T / 2**0.5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
        rows.append(scores.softmax(1) @ value[:, shared])
    torch.testing.assert_close(attention(hidden)[0], attention.out(torch.cat(rows, 1)))


@pytest.mark.parametrize("make", [tiny, lambda: char_transformer(vocabulary=11, length=6, width=8, layers=2, heads=2).eval()])
def test_what_comes_later_changes_no_earlier_score(make):
    model, tokens = make(), torch.tensor([[1, 2, 3, 4, 5, 6]])
    later = tokens.clone()
    later[0, 4:] = 9
    torch.testing.assert_close(model(tokens)[:, :4], model(later)[:, :4])
    assert not torch.allclose(model(tokens)[:, 4:], model(later)[:, 4:])


def test_the_output_layer_is_the_embedding():
    model, tokens = tiny(), torch.tensor([[1, 2, 3]])
    hidden = F.rms_norm(model.blocks(model.tokens(tokens)), (8,), model.norm.weight, 1e-5)
    torch.testing.assert_close(model(tokens), hidden @ model.tokens.weight.T)


def test_the_story_teller_has_its_published_size():
    assert sum(parameter.numel() for parameter in stories260k().parameters()) == 260_032


def test_weights_of_llama2c_are_read_back_as_they_were_written(tmp_path):
    model, other = tiny(), tiny(1)
    load_weights(other, write(tmp_path / "model.bin", model))
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cut": 4}, "its header tells of"),
        ({"cut": 3}, "not a file of llama2.c"),
        ({"header": (*HEADER[:5], -11, 5)}, "whose output layer is the embedding"),
        ({"header": (*HEADER[:2], 3, *HEADER[3:])}, "not whole"),
    ],
)
def test_a_file_that_is_not_whole_or_has_an_output_layer_of_its_own_is_refused(tmp_path, change, words):
    with pytest.raises(LaconicError, match=words):
        read_llama2c(write(tmp_path / "model.bin", tiny(), **change))


def test_a_language_model_is_captured_with_its_embedding_read_twice():
    program = capture(tiny(), (torch.tensor([[1, 2, 3], [4, 5, 6]]),))
    tokens = torch.tensor([[7, 8, 9]] * 3)
    torch.testing.assert_close(program(tokens), tiny()(tokens))
    [embedding] = [node for node in program.graph.nodes if node.target == "tokens.weight"]
    assert len(embedding.users) == 2


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(LaconicError, match="multiple of its heads; got width=10, heads=4"):
        char_transformer(width=10, heads=4)
