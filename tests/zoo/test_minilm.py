import torch

from laconic.program import capture
from laconic.zoo import example, load
from laconic.zoo.minilm import minilm

SMALL = {"words": 40, "positions": 16, "width": 24, "layers": 2, "heads": 3, "wide": 48}
IDS = torch.tensor([[2, 11, 5, 3, 0, 0], [2, 9, 3, 0, 0, 0]])


def small():
    torch.manual_seed(0)
    return minilm(**SMALL).eval()


def test_embeddings_have_length_one():
    torch.testing.assert_close(small()(IDS).norm(dim=1), torch.ones(2))


def test_what_a_sentence_is_filled_up_with_says_nothing():
    model = small()
    torch.testing.assert_close(model(IDS)[1:], model(IDS[1:, :3]))


def test_the_program_computes_what_the_module_computes():
    model = small()
    torch.testing.assert_close(capture(model, (IDS,))(IDS), model(IDS))


def test_a_layer_is_that_of_torch():
    """`nn.TransformerEncoderLayer` is the same layer with the three products in one."""
    model = small()
    layer, other = (
        model.encoder["layer"][0],
        torch.nn.TransformerEncoderLayer(24, 3, 48, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True),
    )
    attention, inner = layer.attention["self"], layer.attention["output"]
    products = [attention.query, attention.key, attention.value]
    with torch.no_grad():
        other.self_attn.in_proj_weight.copy_(torch.cat([product.weight for product in products]))
        other.self_attn.in_proj_bias.copy_(torch.cat([product.bias for product in products]))
    pairs = [(other.self_attn.out_proj, inner.dense), (other.norm1, inner.LayerNorm), (other.norm2, layer.output.LayerNorm)]
    for mine, given in [*pairs, (other.linear1, layer.intermediate["dense"]), (other.linear2, layer.output.dense)]:
        mine.load_state_dict(given.state_dict())
    hidden, words = torch.randn(2, 6, 24), IDS != 0
    found = layer(hidden, (1 - words.float())[:, None, None, :] * -1e4)
    wanted = other.train()(hidden, src_key_padding_mask=~words)
    torch.testing.assert_close(found[words], wanted[words], rtol=1e-4, atol=1e-5)


def test_it_is_built_by_name_and_takes_token_ids():
    model = load("zoo:minilm?layers=1&words=40&positions=64&width=24&heads=3&wide=48")
    ids = example("zoo:minilm", model)
    assert [(tensor.shape, tensor.dtype) for tensor in ids] == [((2, 64), torch.int64)]
    assert model(ids[0]).shape == (2, 24)
