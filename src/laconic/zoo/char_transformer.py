"""A small transformer that predicts the next character.

Source: A. Radford et al., "Language Models are Unsupervised Multitask Learners", OpenAI 2019 (GPT-2): normalization before each part,
learned positions, GELU; its weights are drawn as there.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from laconic.errors import LaconicError


class Block(nn.Module):
    """Causal self-attention, then a dense layer to four times the width and back; both are added to what they read."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return `(n, positions, width)` of the same."""
        query, key, value = self.qkv(self.norm1(hidden)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        result: Tensor = hidden + self.dropout(self.down(F.gelu(self.up(self.norm2(hidden)))))
        return result


class CharTransformer(nn.Module):
    """Embeddings of characters and positions, blocks, and a layer that scores the next character, whose weight is the embedding's."""

    def __init__(self, vocabulary: int, length: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for name, tensor in self.named_parameters():
            if tensor.ndim > 1:
                nn.init.normal_(tensor, std=0.02 / (2 * layers) ** 0.5 if name.endswith(("out.weight", "down.weight")) else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(tensor)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits `(n, positions, vocabulary)` of `(n, positions)`."""
        hidden = self.characters(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        hidden = self.norm(self.blocks(self.dropout(hidden)))
        return F.linear(hidden, self.characters.weight)


def char_transformer(
    *,
    vocabulary: PositiveInt = 65,
    length: PositiveInt = 256,
    width: PositiveInt = 192,
    layers: PositiveInt = 6,
    heads: PositiveInt = 3,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
) -> nn.Module:
    """Build a character-level transformer after Radford et al., GPT-2, 2019: 2,731,200 parameters, for tinyshakespeare.

    Args:
        vocabulary: how many characters there are.
        length: positions that it knows, the longest window.
        width: of the stream between blocks.
        layers: how many blocks.
        heads: of attention; they divide the width.
        dropout: of what each part adds, while training.
    """
    if width % heads:
        raise LaconicError(f"char_transformer's width must be a multiple of its heads; got width={width}, heads={heads}")
    return CharTransformer(vocabulary, length, width, layers, heads, dropout)
