"""A small network for sentences: word vectors, convolutions over neighbouring words, and the strongest answer of each.

Source: Y. Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

_PADDING = 0  # the id of "[PAD]"


class SentenceCNN(nn.Module):
    """Filters over 3, 4 and 5 words, the largest value of each over the sentence, dropout and a linear layer."""

    def __init__(self, words: int, width: int, filters: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, filters, size, padding=size // 2) for size in (3, 4, 5))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(3 * filters, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits for token ids (batch, positions), sentences filled up with 0."""
        words = self.embedding(ids) * (ids != _PADDING)[..., None].to(self.embedding.weight.dtype)
        found = [F.relu(convolve(words.transpose(1, 2))).amax(2) for convolve in self.convolutions]
        logits: Tensor = self.fc(self.dropout(torch.cat(found, 1)))
        return logits


def sentence_cnn(
    *,
    words: Annotated[int, Field(ge=1)] = 30522,
    width: Annotated[int, Field(ge=1)] = 64,
    filters: Annotated[int, Field(ge=1)] = 64,
    classes: Annotated[int, Field(ge=1)] = 2,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
) -> nn.Module:
    """Build the network of "Convolutional Neural Networks for Sentence Classification", EMNLP 2014, on the tokens of BERT: 2.0 M weights.

    Nearly all of them are word vectors.
    """
    return SentenceCNN(words, width, filters, classes, dropout)
