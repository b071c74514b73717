"""What a step may use: data, a score, a teacher, the training loop, randomness and a journal."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from laconic.data import Split, Splits
from laconic.errors import LaconicError
from laconic.program import Program
from laconic.train import AfterBatch, AfterEpoch, Batches, Fitted, Loss, Training, cross_entropy, fit, usual_score

Score: TypeAlias = Callable[[nn.Module, Split], float]
"""How good a network is on a split; higher is better. For classifiers: the share of right answers; of sequences, nats of log-likelihood."""

Latency: TypeAlias = Callable[[Program, Program], float]
"""The time that the second program takes on the runtime, as a share of the first's."""

LayerSeconds: TypeAlias = Callable[[Program], Mapping[str, float]]
"""The seconds of one example in each layer of a program on the runtime, by the layer's name."""


@dataclass(frozen=True)
class Context:
    """Everything around a program that a step may read. Frozen; only the journal grows."""

    splits: Splits
    score: Score = usual_score
    teacher: Program | None = None  # the network as it came; `compress` sets it where it is None
    device: str = "cpu"
    seed: int = 0
    latency: Latency | None = None  # times programs on a runtime, e.g. `laconic.race.race(example)`; the command line sets it
    layer_seconds: LayerSeconds | None = None  # profiles programs on that runtime, e.g. `laconic.race.profile(example)`
    compiled: bool = False  # whether networks are compiled for training: minutes at first, then batches in less time
    folder: Path | None = None  # where unfinished training keeps its checkpoints; None: nowhere
    notes: list[str] = field(default_factory=list)  # what steps say to the reader of the receipt

    def note(self, text: str) -> None:
        """Write a sentence into the journal of the running step."""
        self.notes.append(text)

    def generator(self) -> torch.Generator:
        """Return a new generator at this run's seed."""
        return torch.Generator().manual_seed(self.seed)

    def timer(self) -> Latency:
        """Return what times programs.

        Raises:
            LaconicError: nothing here does.
        """
        if self.latency is None:
            raise LaconicError("a latency needs a runtime to measure on: give Context(latency=laconic.race.race(example))")
        return self.latency

    def profiler(self) -> LayerSeconds:
        """Return what times the layers of a program.

        Raises:
            LaconicError: nothing here does.
        """
        if self.layer_seconds is None:
            raise LaconicError("this latency needs times of layers too: give Context(layer_seconds=laconic.race.profile(example))")
        return self.layer_seconds

    def example(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Return real inputs, `batch` of them, to run or export a program with."""
        inputs, _ = self.splits.calibration.batch(slice(0, batch))
        while len(inputs) < batch:
            inputs = torch.cat([inputs, inputs])[:batch]
        return (inputs.to(self.device),)

    def calibration(self, batch: int = 64) -> Iterator[Tensor]:
        """Yield the unlabelled calibration inputs in batches."""
        for inputs, _ in self.splits.calibration.batches(batch):
            yield inputs.to(self.device)

    def fit(
        self,
        program: nn.Module,
        training: Training,
        loss: Loss = cross_entropy,
        progress: str = "training",
        after_batch: AfterBatch | None = None,
        after_epoch: AfterEpoch | None = None,
        batches: Batches | None = None,
    ) -> Fitted:
        """Train a program, or a module around it, in place on the training split; see `train.fit`.

        A checkpoint of the same training is gone on with where there is one.

        Raises:
            LaconicError: there is no training data.
        """
        if self.splits.train is None:
            raise LaconicError(
                "this step trains, and the data has no training split; use post-training steps only, or data with a `train` part"
            )
        return fit(
            program,
            self.splits.train,
            training,
            loss=loss,
            validation=self.splits.validation,
            score=self.score,
            augment=self.splits.augment,
            seed=self.seed,
            device=self.device,
            folder=self.folder,
            after_batch=after_batch,
            after_epoch=after_epoch,
            batches=batches,
            compiled=self.compiled,
            progress=progress,
        )


def calibration_inputs(program: Program, context: Context) -> list[Tensor]:
    """Return the calibration inputs in batches, checked.

    Raises:
        LaconicError: there are none, they have another shape or type than the network takes, or are not finite.
    """
    batches, wanted, dtype = list(context.calibration()), program.inputs[0].shape, program.inputs[0].dtype
    if not batches:
        raise LaconicError("there are no calibration inputs; give data with a calibration part, or with training data to draw it from")
    for batch in batches:
        if tuple(batch.shape[1:]) != wanted:
            raise LaconicError(f"calibration inputs have the shape {tuple(batch.shape[1:])}, but the network takes {wanted}")
        if batch.is_floating_point() != dtype.is_floating_point:
            raise LaconicError(f"calibration inputs are {batch.dtype}, but the network takes {dtype}")
        if batch.is_floating_point() and not torch.isfinite(batch).all():
            raise LaconicError("calibration inputs hold NaN or infinite numbers; clean them")
    return batches
