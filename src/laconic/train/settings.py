"""What can be set in training, and what it tells when it is done."""

import math
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

_strict = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_strict)
class Training:
    """How a network is trained: how long, how fast, and which of its weights stay."""

    epochs: Annotated[int, Field(ge=1)] = 10
    batch: Annotated[int, Field(ge=1)] = 128  # examples; a last batch of one example is left out (batch norm)
    learning_rate: Annotated[float, Field(gt=0)] = 0.01  # at the height of the schedule
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # Nesterov's for sgd, the first beta for adamw
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 5e-4  # of weights; never of biases, norms and scales
    schedule: Literal["cosine", "one-cycle", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = None  # share of training; None: 0.3 of a one-cycle, 0 of the others
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay per batch of the average that is scored and kept
    patience: Annotated[int, Field(ge=1)] | None = None  # epochs without a better validation score before stopping
    keep: Literal["last", "best"] = "last"  # the epoch whose weights stay; best: by validation score
    clip: Annotated[float, Field(gt=0)] | None = None  # largest L2 norm of all gradients together
    autocast: Annotated[Literal["auto", "off", "bfloat16"], BeforeValidator(lambda v: "off" if v is False else v)] = (
        "auto"  # auto: bfloat16 where the device computes in it
    )
    channels_last: bool | Literal["auto"] = "auto"  # images as (n, height, width, channels) in memory; auto: where the network can


@dataclass(frozen=True, config=_strict)
class Epoch:
    """One pass over the training examples."""

    number: int  # from 1
    loss: float  # mean over the batches
    learning_rate: float  # of the last batch
    score: float | None  # on the validation split; None: there is none
    seconds: float


@dataclass(frozen=True, config=_strict)
class Fitted:
    """What training did."""

    epochs: int  # trained, fewer than asked for where it stopped early
    score: float | None  # validation score of the weights that stay
    best: float | None  # best validation score of any epoch
    history: tuple[Epoch, ...]


def best(history: tuple[Epoch, ...]) -> Epoch:
    """Return the first epoch with the highest score; `history` has at least one."""
    return max(history, key=lambda epoch: -math.inf if epoch.score is None else epoch.score)


def lower_precision(choice: str, device: torch.device) -> bool:
    """Decide whether to multiply in bfloat16: as told, or ("auto") where the device has instructions for it.

    Measured on an EPYC with AVX512_BF16, one thread: forward and backward of small convolutional networks 1.3-2.4x as fast, dense ones
    1.8-2.5x, a transformer layer 1.5x. Without such instructions it is emulated and slower.
    """
    if choice != "auto":
        return choice == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
