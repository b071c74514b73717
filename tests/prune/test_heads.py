"""Heads: whole attention heads go, their dimensions stay."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from laconic.contract import fingerprint
from laconic.errors import LaconicError, NotApplicableError
from laconic.measure import macs
from laconic.program import capture, clone, read
from laconic.program.groups import channel_groups
from laconic.prune import Heads
from laconic.recipe import apply
from networks import captured


class Attention(nn.Module):
    """Self-attention with fewer heads of keys and values than of queries, where asked."""

    def __init__(self, heads=4, shared=4, size=3):
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, size
        self.query = nn.Linear(10, heads * size)
        self.key, self.value = nn.Linear(10, shared * size), nn.Linear(10, shared * size)
        self.out, self.fc = nn.Linear(heads * size, 10), nn.Linear(10, 5)

    def split(self, x, heads):
        return x.view(x.shape[0], x.shape[1], heads, self.size).transpose(1, 2)

    def repeat(self, x):
        times = self.heads // self.shared
        return x[:, :, None].expand(-1, -1, times, -1, -1).reshape(x.shape[0], self.heads, x.shape[2], self.size)

    def forward(self, x):
        query = self.split(self.query(x), self.heads)
        key, value = self.split(self.key(x), self.shared), self.split(self.value(x), self.shared)
        if self.heads > self.shared:
            key, value = self.repeat(key), self.repeat(value)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.fc((x + self.out(attended.transpose(1, 2).flatten(2))).mean(1))


EXAMPLE = (torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0)),)


def heads_of(program):
    return [group.channels for group in channel_groups(program) if group.heads]


@pytest.mark.parametrize("name", ["attention", "transformer"])
def test_the_heads_of_a_network_halve_and_it_runs(name, context_of):
    program, context = captured(name)[0], context_of(name)
    assert heads_of(program) == [2]
    work = macs(program, context.example())
    done = apply(program, [Heads(ratio=0.5)], context)
    assert macs(done.program, context.example()) < work
    assert done.program(*context.example(7)).shape == (7, 5)
    assert any("2 -> 1" in note for note in done.journal[0].notes)


def test_a_head_goes_from_queries_keys_values_and_the_layer_that_reads_them(random_context):
    program = Heads(ratio=0.5)(capture(Attention(), EXAMPLE), random_context(EXAMPLE))
    assert heads_of(program) == [2]
    for name in ("query", "key", "value"):
        assert read(program, f"{name}.weight").shape == (6, 10)
        assert read(program, f"{name}.bias").shape == (6,)
    assert read(program, "out.weight").shape == (10, 6)
    assert read(program, "fc.weight").shape == (5, 10)


@pytest.mark.parametrize("importance", ["obs", "fisher", "taylor", "activation", "l1", "l2", "geometric-median", "random"])
def test_every_criterion_says_something_about_heads(importance, random_context):
    program = Heads(ratio=0.25, importance=importance)(capture(Attention(), EXAMPLE), random_context(EXAMPLE))
    assert heads_of(program) == [3]


@pytest.mark.parametrize("importance", ["obs", "fisher", "taylor", "activation"])
def test_the_head_that_is_not_read_goes_first(importance, random_context):
    module = Attention()
    with torch.no_grad():
        module.out.weight[:, 3:6] = 0
    program, context = capture(module, EXAMPLE), random_context(EXAMPLE)
    small = Heads(ratio=0.25, importance=importance)(clone(program), context)
    kept = [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert torch.equal(read(small, "query.weight"), read(program, "query.weight")[kept])
    torch.testing.assert_close(small(*EXAMPLE), program(*EXAMPLE), rtol=0, atol=1e-3)


def test_a_head_that_is_a_copy_of_another_is_made_up_for(random_context):
    module = Attention()
    with torch.no_grad():
        for layer in (module.query, module.key, module.value):
            for tensor in layer.parameters():
                tensor[9:12] = tensor[0:3]
    program = capture(module, EXAMPLE)
    small = Heads(ratio=0.25)(clone(program), random_context(EXAMPLE, 200))
    fresh = torch.randn(40, 6, 10)
    torch.testing.assert_close(small(fresh), program(fresh), rtol=0, atol=2e-3)


def test_grouped_queries_go_with_the_head_that_they_share(random_context):
    program = capture(Attention(heads=8, shared=4), EXAMPLE)
    assert sorted(heads_of(program)) == [2, 4], "shared heads, and the queries of each"
    small = Heads(ratio=0.5, include=("key",))(program, random_context(EXAMPLE))
    assert sorted(heads_of(program)) == [2, 2]
    assert read(small, "query.weight").shape == (4 * 3, 10)
    assert read(small, "key.weight").shape == read(small, "value.weight").shape == (2 * 3, 10)
    assert read(small, "out.weight").shape == (10, 4 * 3)
    assert small(torch.randn(7, 6, 10)).shape == (7, 5)


def test_grouped_heads_and_their_queries_go_to_one_target(random_context):
    program, context = capture(Attention(heads=8, shared=4), EXAMPLE), random_context(EXAMPLE)
    whole = macs(program, EXAMPLE)
    done = apply(program, [Heads(macs=0.6)], context)
    left = macs(done.program, EXAMPLE) / whole
    assert 0.5 < left < 0.51, "of 0.75 and 0.504, between which there is nothing, the nearer"
    queries, shared = (read(done.program, f"{name}.weight").shape[0] // 3 for name in ("query", "key"))
    assert queries % shared == 0
    assert done.program(torch.randn(7, 6, 10)).shape == (7, 5)


def test_only_attention_is_asked_for_heads(context_of):
    program, context = captured("residual")[0], context_of("residual")
    before = fingerprint(program)
    with pytest.raises(NotApplicableError, match="no attention head to prune"):
        Heads()(program, context)
    assert fingerprint(program) == before


def test_one_head_cannot_be_halved(random_context):
    with pytest.raises(NotApplicableError, match="no attention head to prune"):
        Heads()(capture(Attention(heads=1, shared=1), EXAMPLE), random_context(EXAMPLE))


def test_heads_are_excluded_by_the_layers_that_make_them(random_context):
    program = capture(Attention(), EXAMPLE)
    with pytest.raises(LaconicError, match="no group of attention heads is left"):
        Heads(exclude=("key",))(program, random_context(EXAMPLE))
