"""The one training loop: distillation is a loss, quantization-aware training a parametrized model, gradual pruning a callback."""

from laconic.train.batches import Batches, Drawn
from laconic.train.imitation import response_loss
from laconic.train.loop import fit
from laconic.train.objective import Loss, Score, classes_last, cross_entropy, label_loss, log_likelihood, top1, usual_score
from laconic.train.ramp import Ramp
from laconic.train.settings import Epoch, Fitted, Training
from laconic.train.state import AfterBatch, AfterEpoch, describe

__all__ = [
    "AfterBatch",
    "AfterEpoch",
    "Batches",
    "Drawn",
    "Epoch",
    "Fitted",
    "Loss",
    "Ramp",
    "Score",
    "Training",
    "classes_last",
    "cross_entropy",
    "describe",
    "fit",
    "label_loss",
    "log_likelihood",
    "response_loss",
    "top1",
    "usual_score",
]
