"""The Llama architecture, at the size of a story teller of 260,032 parameters.

Sources: H. Touvron et al., "Llama 2: Open Foundation and Fine-Tuned Chat Models", arXiv:2307.09288; its parts: B. Zhang, R. Sennrich,
"Root Mean Square Layer Normalization", NeurIPS 2019; J. Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding",
arXiv:2104.09864 (the two numbers of a rotated pair lie next to each other); N. Shazeer, "GLU Variants Improve Transformer",
arXiv:2002.05202; J. Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints", EMNLP 2023.
The weights: A. Karpathy, tinyllamas (trained on TinyStories, R. Eldan, Y. Li, arXiv:2305.07759).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EPSILON = 1e-5
_BASE = 10000.0  # of the wavelengths of rotary embeddings


class Attention(nn.Module):
    """Causal attention with rotary positions; several heads share a key and a value."""

    def __init__(self, width: int, heads: int, shared_heads: int) -> None:
        super().__init__()
        self.size = width // heads
        self.query, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.key, self.value = (nn.Linear(width, shared_heads * self.size, bias=False) for _ in range(2))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return `(n, positions, width)` of the same."""
        query, key, value = (each(hidden).unflatten(-1, (-1, self.size)).transpose(1, 2) for each in (self.query, self.key, self.value))
        cosine, sine = angles(hidden.shape[1], self.size, hidden.device)
        query, key = rotated(query, cosine, sine), rotated(key, cosine, sine)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        mixed: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """Attention, then a gated dense layer (SwiGLU), each behind a normalization and added to what it read."""

    def __init__(self, width: int, heads: int, shared_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.RMSNorm(width, _EPSILON) for _ in range(2))
        self.attention = Attention(width, heads, shared_heads)
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return `(n, positions, width)` of the same."""
        hidden = hidden + self.attention(self.norm1(hidden))
        normed = self.norm2(hidden)
        gated: Tensor = self.down(F.silu(self.gate(normed)) * self.up(normed))
        return hidden + gated


class Llama(nn.Module):
    """Embeddings of tokens, blocks, and a layer that scores the next token, whose weight is the embedding's."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, shared_heads: int, hidden: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*(Block(width, heads, shared_heads, hidden) for _ in range(layers)))
        self.norm = nn.RMSNorm(width, _EPSILON)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits `(n, positions, vocabulary)` of `(n, positions)`."""
        return F.linear(self.norm(self.blocks(self.tokens(tokens))), self.tokens.weight)


def angles(positions: int, size: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, (positions, size / 2), of the angle of each pair at each position (Su et al., section 3.4.2)."""
    pace = _BASE ** (-torch.arange(0, size, 2, device=device) / size)
    angle = torch.arange(positions, device=device)[:, None] * pace
    return angle.cos(), angle.sin()


def rotated(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair of neighbours in the last axis of `(n, heads, positions, size)` by its angle."""
    even, odd = heads.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)


def stories260k() -> nn.Module:
    """Build the story teller (Karpathy, tinyllamas; the architecture of Touvron et al., Llama 2, 2023): 260,032 parameters.

    Its weights are the file `stories260K.bin`; its 512 tokens are those of the data set `stories260k`.
    """
    return Llama(vocabulary=512, width=64, layers=5, heads=8, shared_heads=4, hidden=172)
