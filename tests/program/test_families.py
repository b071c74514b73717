"""The families of networks that are in use, small and with random weights: their groups are the right ones, and half of each can go.

Those of transformers and timm are tried where these packages are installed.
"""

import subprocess
import sys
from functools import cache
from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.program import Program, capture, clone, load, save
from laconic.program.cut import cut
from laconic.program.groups import Group, channel_groups
from laconic.program.zero import zero

PICTURE, TOKENS = (2, 3, 32, 32), torch.tensor([[5, 2, 40, 7, 7, 1, 3], [9, 8, 0, 33, 21, 4, 49]])


def bert():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=50, max_position_embeddings=12, num_labels=3, **sizes)
    return transformers.BertForSequenceClassification(config), TOKENS


def gpt2():
    transformers = pytest.importorskip("transformers")
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 12}
    config = transformers.GPT2Config(vocab_size=50, bos_token_id=0, eos_token_id=0, use_cache=False, **sizes)
    return transformers.GPT2LMHeadModel(config), TOKENS


def llama():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=50, max_position_embeddings=12, use_cache=False, **sizes)
    return transformers.LlamaForCausalLM(config), TOKENS


def segformer():
    transformers = pytest.importorskip("transformers")
    stages = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}
    patches = {"sr_ratios": [2, 1], "strides": [4, 2], "patch_sizes": [7, 3]}
    config = transformers.SegformerConfig(num_encoder_blocks=2, decoder_hidden_size=12, num_labels=5, **stages, **patches)
    return transformers.SegformerForSemanticSegmentation(config), torch.randn(PICTURE)


def vit():
    timm = pytest.importorskip("timm")
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5), torch.randn(PICTURE)


class Sentences(nn.Module):
    """Two layers of LSTM in both directions over embedded tokens, classified by what they end with."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 10)
        self.lstm = nn.LSTM(10, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.hidden, self.classifier = nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        return self.classifier(F.relu(self.hidden(states[:, -1])))


class Signals(nn.Module):
    """A residual block with a depthwise convolution between a stem and gated channels, over one dimension."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv1d(4, 16, 5, stride=2, padding=2), nn.BatchNorm1d(16)
        self.expand, self.depthwise, self.project = nn.Conv1d(16, 32, 1), nn.Conv1d(32, 32, 3, padding=1, groups=32), nn.Conv1d(32, 16, 1)
        self.gates, self.classifier = nn.Conv1d(16, 24, 3), nn.Linear(12, 5)

    def forward(self, signal: Tensor) -> Tensor:
        stream = F.relu(self.stem_norm(self.stem(signal)))
        stream = stream + self.project(F.gelu(self.depthwise(self.expand(stream))))
        return self.classifier(F.glu(self.gates(stream), 1).mean(-1))


FAMILIES = {
    "bert": bert,
    "gpt2": gpt2,
    "llama": llama,
    "segformer": segformer,
    "vit": vit,
    "lstm": lambda: (Sentences(), TOKENS),
    "conv1d": lambda: (Signals(), torch.randn(2, 4, 32)),
}
every_family = pytest.mark.parametrize("name", FAMILIES)

# By family, in words: channels, whether heads, whether exact, and where the group lives; "..." where in every layer besides
_BERT, _GPT2, _LLAMA = "bert.encoder.layer.0.", "transformer.h.0.", "model.layers.0."
_STAGE, _FIRST = "segformer.stages.1.blocks.0.attention.", "segformer.stages.0.blocks.0."
GROUPS = {
    "bert": {
        "residual stream": (16, False, False, "bert.embeddings.word_embeddings.weight[1] bert.pooler.dense.weight[1] ..."),
        "heads": (
            *(4, True, True),
            "attention.self.{query,key,value}.{weight,bias}[0] attention.output.dense.weight[1]".replace("attention", f"{_BERT}attention"),
        ),
        "dimension of queries and keys": (4, False, True, f"{_BERT}attention.self.{{query,key}}.{{weight,bias}}[0]"),
        "dimension of values": (4, False, True, f"{_BERT}attention.self.value.{{weight,bias}}[0] {_BERT}attention.output.dense.weight[1]"),
        "hidden of the MLP": (32, False, True, f"{_BERT}intermediate.dense.{{weight,bias}}[0] {_BERT}output.dense.weight[1]"),
        "pooler": (16, False, True, "bert.pooler.dense.{weight,bias}[0] classifier.weight[1]"),
    },
    "gpt2": {
        "residual stream": (16, False, False, "lm_head.weight[1] transformer.wpe.weight[1] transformer.ln_f.weight[0] ..."),
        "heads": (4, True, True, f"{_GPT2}attn.c_attn.weight[1] {_GPT2}attn.c_attn.bias[0] {_GPT2}attn.c_proj.weight[0]"),
        "dimension of queries and keys": (4, False, True, f"{_GPT2}attn.c_attn.weight[1] {_GPT2}attn.c_attn.bias[0]"),
        "dimension of values": (4, False, True, f"{_GPT2}attn.c_attn.weight[1] {_GPT2}attn.c_attn.bias[0] {_GPT2}attn.c_proj.weight[0]"),
        "hidden of the MLP": (64, False, True, f"{_GPT2}mlp.c_fc.weight[1] {_GPT2}mlp.c_fc.bias[0] {_GPT2}mlp.c_proj.weight[0]"),
    },
    "llama": {
        "residual stream": (32, False, False, "model.embed_tokens.weight[1] model.norm.weight[0] lm_head.weight[1] ..."),
        "heads of keys and values, each with its queries": (
            *(2, True, True),
            f"{_LLAMA}self_attn.{{q,k,v}}_proj.weight[0] {_LLAMA}self_attn.o_proj.weight[1]",
        ),
        "queries of each head": (2, True, True, f"{_LLAMA}self_attn.q_proj.weight[0] {_LLAMA}self_attn.o_proj.weight[1]"),
        "rotated pairs of queries and keys": (
            *(4, False, True),
            "model.layers.{0,1}.self_attn.{q,k}_proj.weight[0] model.rotary_emb.inv_freq[0]",
        ),
        "dimension of values": (8, False, True, f"{_LLAMA}self_attn.v_proj.weight[0] {_LLAMA}self_attn.o_proj.weight[1]"),
        "hidden of the gated MLP": (48, False, True, f"{_LLAMA}mlp.{{gate,up}}_proj.weight[0] {_LLAMA}mlp.down_proj.weight[1]"),
    },
    "segformer": {
        "stream of the first stage": (8, False, False, "segformer.stages.0.patch_embeddings.proj.weight[0] ..."),
        "reduced sequence": (
            *(8, False, False),
            f"{_FIRST}attention.sequence_reduction.sequence_reduction.{{weight,bias}}[0] "
            f"{_FIRST}attention.sequence_reduction.layer_norm.{{weight,bias}}[0] {_FIRST}attention.{{k,v}}_proj.weight[1]",
        ),
        "heads of the second stage": (2, True, True, f"{_STAGE}{{q,k,v}}_proj.{{weight,bias}}[0] {_STAGE}o_proj.weight[1]"),
        "dimension of queries and keys": (8, False, True, f"{_STAGE}{{q,k}}_proj.{{weight,bias}}[0]"),
        "dimension of values": (8, False, True, f"{_STAGE}v_proj.{{weight,bias}}[0] {_STAGE}o_proj.weight[1]"),
        "hidden of the MLP, through its depthwise convolution": (
            *(16, False, True),
            f"{_FIRST}mlp.fc1.{{weight,bias}}[0] {_FIRST}mlp.dwconv.dwconv.{{weight,bias}}[0] {_FIRST}mlp.fc2.weight[1]",
        ),
        "a part of what the decoder concatenates": (
            *(12, False, True),
            "decode_head.linear_projections.0.proj.{weight,bias}[0] decode_head.linear_fuse.weight[1]",
        ),
    },
    "vit": {
        "residual stream": (192, False, False, "cls_token[2] pos_embed[2] patch_embed.proj.weight[0] head.weight[1] ..."),
        "heads": (3, True, True, "blocks.0.attn.qkv.{weight,bias}[0] blocks.0.attn.proj.weight[1]"),
        "dimension of a head": (64, False, True, "blocks.0.attn.qkv.{weight,bias}[0] blocks.0.attn.proj.weight[1]"),
        "hidden of the MLP": (768, False, True, "blocks.0.mlp.fc1.{weight,bias}[0] blocks.0.mlp.fc2.weight[1]"),
    },
    "lstm": {
        "embedding": (10, False, True, "embedding.weight[1] lstm.weight_ih_l0{,_reverse}[1]"),
        "state": (12, False, True, "lstm.weight_hh_l0[0] lstm.weight_hh_l1_reverse[1] hidden.weight[1] ..."),
        "hidden": (16, False, True, "hidden.{weight,bias}[0] classifier.weight[1]"),
    },
    "conv1d": {
        "residual stream": (
            16,
            False,
            True,
            "stem.weight[0] stem_norm.running_var[0] project.weight[0] expand.weight[1] gates.weight[1] ...",
        ),
        "expanded": (32, False, True, "{expand,depthwise}.{weight,bias}[0] project.weight[1]"),
        "gated": (12, False, True, "gates.{weight,bias}[0] classifier.weight[1]"),
    },
}


@cache
def _capture(name: str) -> tuple[Program, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, example = FAMILIES[name]()
        for parameter in model.parameters():  # so large that what is cut shows in the output
            parameter.data += 0.2 * torch.randn_like(parameter)
    return capture(model, (example,)), example


def captured(name: str) -> tuple[Program, Tensor]:
    program, example = _capture(name)
    return clone(program), example


def halves(groups: list[Group]) -> dict[str, list[int]]:
    return {group.name: list(range(0, group.channels, 2)) for group in groups}


def run(program: Program, example: Tensor) -> Tensor:
    with torch.no_grad():
        return program(example)


def places(text: str) -> set[str]:
    """`layer.{a,b}[0] c[1]` -> the tensors with their axes."""
    found = set()
    for word in text.split():
        head, brace, rest = word.partition("{")
        if brace:
            inside, _, tail = rest.partition("}")
            found |= places(" ".join(f"{head}{each}{tail}" for each in inside.split(",")))
        else:
            found.add(word)
    return found


@pytest.mark.parametrize(("name", "words"), [(name, words) for name, groups in GROUPS.items() for words in groups])
def test_the_groups_are_those_found_by_reading_the_source(name, words):
    program, _ = captured(name)
    channels, heads, exact, text = GROUPS[name][words]
    wanted = places(text) - {"..."}
    alike = [group for group in channel_groups(program) if (group.channels, group.heads, group.exact) == (channels, heads, exact)]
    lives = [{f"{slot.tensor}[{slot.axis}]" for slot in group.slots} for group in alike]
    assert any(wanted <= each if "..." in text else wanted == each for each in lives), lives


@every_family
def test_exact_groups_alone_and_together_are_cut_as_if_they_were_zeroed(name):
    program, example = captured(name)
    whole, exact = run(program, example), [group for group in channel_groups(program) if group.exact]
    kinds = {(group.channels, group.heads, len(group.slots)): group for group in exact}  # one of each, of the last layer
    for groups in [[group] for group in kinds.values()] + [exact]:
        keep = halves(groups)
        small, zeroed = run(cut(clone(program), keep), example), run(zero(clone(program), keep), example)
        torch.testing.assert_close(small, zeroed, rtol=1e-4, atol=1e-5, msg=lambda text, keep=keep: f"{[*keep]}: {text}")
    assert not torch.allclose(small, whole, rtol=1e-2, atol=1e-3)


@every_family
def test_half_of_every_group_leaves_a_network_that_runs_and_trains(name):
    program, example = captured(name)
    small = cut(clone(program), halves(channel_groups(program)))
    assert run(small, example).shape == run(program, example).shape
    sizes = [sum(prod(parameter.shape) for parameter in each.parameters()) for each in (small, program)]
    assert sizes[0] < 0.62 * sizes[1]
    assert channel_groups(small)
    optimizer = torch.optim.SGD(small.train().parameters(), 1e-3)
    before = [parameter.detach().clone() for parameter in small.parameters()]
    small(example).square().mean().backward()
    gradients = [parameter.grad for parameter in small.parameters() if parameter.grad is not None]
    assert len(gradients) > len(before) / 2
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, small.parameters(), strict=True))
    assert torch.isfinite(run(small.eval(), example)).all()


FRESH = """
import sys, torch
from pathlib import Path
from laconic.program import load
for path in Path(sys.argv[1]).glob("*.safetensors"):
    example, expected = torch.load(path.with_suffix(".pt"))
    with torch.no_grad():
        torch.testing.assert_close(load(path)(example), expected)
assert not {"timm", "transformers"} & set(sys.modules)
"""


def test_halved_networks_are_the_same_in_a_fresh_process_without_their_source(tmp_path):
    for name in FAMILIES:
        try:
            program, example = captured(name)
        except pytest.skip.Exception:
            continue
        cut(program, halves(channel_groups(program)))
        save(program, tmp_path / f"{name}.safetensors")
        expected = run(program, example)
        assert torch.equal(run(load(tmp_path / f"{name}.safetensors"), example), expected)
        torch.save((example, expected), tmp_path / f"{name}.pt")
    assert len(list(tmp_path.glob("*.pt"))) >= 2
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], check=True)
