"""The one training loop. It knows no technique: a technique is a loss, a parametrized model or a callback."""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from laconic.data.dataset import Augment, Split
from laconic.errors import LaconicError
from laconic.train import checkpoint, ema, layout, randomness, state
from laconic.train.batches import Batches, Drawn
from laconic.train.objective import Loss, Score, cross_entropy, usual_score
from laconic.train.progress import bar
from laconic.train.schedule import factor
from laconic.train.settings import Epoch, Fitted, Training
from laconic.train.state import AfterBatch, AfterEpoch, Run, Work

_CHECKPOINT_SECONDS = 300.0  # between checkpoints within an epoch


def fit(
    model: nn.Module,
    train: Split,
    training: Training,
    *,
    loss: Loss = cross_entropy,
    validation: Split | None = None,
    score: Score | None = None,
    augment: Augment | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    after_batch: AfterBatch | None = None,
    after_epoch: AfterEpoch | None = None,
    batches: Batches | None = None,
    compiled: bool = False,
    progress: str | None = None,
) -> Fitted:
    """Train `model` in place; it ends in eval mode, without gradients, on the device that it came from.

    Only parameters that require a gradient are trained. Chance depends on `seed` alone and leaves torch's global generators as they were.
    Scores are computed in float32, with the averaged weights where there is an average.

    Args:
        model: any module; modes are switched by `train()` and `eval()` only.
        train: what to learn from.
        training: how.
        loss: what to minimise; it calls the model.
        validation: what the score is computed on after every epoch; None: nothing is scored.
        score: higher is better; None: top-1 accuracy, of sequences the log-likelihood.
        augment: changes every training batch, before it goes to `device`.
        seed: 0 or more.
        device: where to train.
        folder: where a checkpoint is written after every epoch, and every five minutes of a long one; the same call continues from it,
            on a CPU to the same bits. None: no checkpoints.
        after_batch: called when the weights have moved, with the batches done and the batches of the whole training; a program is cut
            to the channels that it returns, if any, the optimizer's state and the averages with it; the best epoch is then a later one,
            and so it is where it returns an empty dict: it has changed the network itself, by a mask, say.
        after_epoch: called with the epoch that is over, before its checkpoint. State that it or `after_batch` keeps belongs in
            buffers of the model, so that it is in the checkpoint.
        batches: what gives the batches, in place of `train` and `augment`; of `train` are then the indices, and what tells this training
            from others.
        compiled: whether the model's operations are put together by `torch.compile`: minutes at first, then batches in less time. Not
            after a cut, and not for a last, smaller batch.
        progress: label of a progress bar on stderr, shown where that is a terminal.

    Returns:
        The epochs and their scores.

    Raises:
        LaconicError: the settings want a validation split and there is none, nothing can be trained, or the loss is not finite.
    """
    device = torch.device(device)
    score = score or partial(usual_score, device=device)
    work = Work(
        model,
        train,
        training,
        loss,
        validation,
        score,
        augment,
        seed,
        device,
        after_batch,
        after_epoch,
        batches or Drawn(train, augment),
        compiled,
    )
    path = None if folder is None else folder / state.name(work)
    home = next(model.parameters()).device
    model.to(device)
    if work.channels_last:
        layout.lay_out(model, torch.channels_last)
    with randomness.sources(device) as random:
        run = state.start(work, random, path)
        with bar(progress, run.done, work.total) as show:
            while not _finished(work, run):
                _epoch(work, run, path, show)
    _settle(work, run)
    if work.channels_last:
        layout.lay_out(model, torch.contiguous_format)
    model.to(home)
    return _fitted(work, run)


def _finished(work: Work, run: Run) -> bool:
    patience = work.training.patience
    waited = len(run.comparable) if run.top is None else len(run.history) - run.top.number
    tired = patience is not None and waited >= patience
    return tired or run.done >= work.total


def _epoch(work: Work, run: Run, path: Path | None, show: Callable[[int, str], None]) -> None:
    """Train the rest of the epoch that `run` stands in, score it and write a checkpoint."""
    number, begun = divmod(run.done, len(work.starts))
    if not begun:
        randomness.start_epoch(run.random, work.seed, number)
    order = randomness.order(len(work.train), work.seed, number).numpy()
    run.since = time.monotonic()
    work.model.train()
    for start in work.starts[begun:]:
        _batch(work, run, order[start : start + work.training.batch])
        show(run.done, _text(work, run))
        if run.done % len(work.starts) and time.monotonic() - run.since > _CHECKPOINT_SECONDS:
            run.tick()
            state.save(work, run, path)
    _close(work, run)
    state.save(work, run, path)


def _batch(work: Work, run: Run, indices: NDArray[np.int64]) -> None:
    """Take one step on the examples at `indices`."""
    with torch.autocast(work.device.type, torch.bfloat16, enabled=work.bfloat16):
        inputs, *targets = work.batches(indices, run.done // len(work.starts), run.random[0])
        if work.channels_last:
            inputs = layout.channels_last(inputs)
        is_usual = len(indices) == work.training.batch and not any(cut.keep for cut in run.cuts)
        model = work.fused if work.fused is not None and is_usual else work.model
        loss = work.loss(model, inputs.to(work.device), *(target.to(work.device) for target in targets))
    run.rate = work.training.learning_rate * factor(work.training.schedule, (run.done + 0.5) / work.total, work.training.warmup)
    run.loss += _finite(loss.item(), work, run)
    loss.backward()
    _step(work, run)
    keep = work.after_batch(run.done, work.total) if work.after_batch else None
    if keep is not None:
        state.change(work, run, keep)


def _step(work: Work, run: Run) -> None:
    """Move the weights by their gradients, and the averages by the weights."""
    if work.training.clip is not None:
        nn.utils.clip_grad_norm_(run.parameters.values(), work.training.clip)
    for group in run.optimizer.param_groups:
        group["lr"] = run.rate * group["factor"]
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.done += 1
    if work.training.ema is not None:
        ema.update(run.averages, run.parameters, work.training.ema, run.done)


def _close(work: Work, run: Run) -> None:
    """Score the epoch, note it and, if it is the best, remember its weights."""
    work.model.eval()
    with ema.exchanged(run.averages, run.parameters):
        score = _score(work)
        run.tick()
        epoch = Epoch(len(run.history) + 1, run.loss / len(work.starts), run.rate, score, run.seconds)
        run.history = (*run.history, epoch)
        if work.training.keep == "best" and run.top is epoch:
            run.best = checkpoint.copies(checkpoint.tensors(work.model))
    run.loss = run.seconds = 0.0
    if work.after_epoch:
        work.after_epoch(epoch)


@torch.no_grad()
def _score(work: Work) -> float | None:
    if work.validation is None:
        return None
    score = work.score(work.model, work.validation)
    if not math.isfinite(score):
        raise LaconicError(f"the validation score is {score}; a score must be a finite number, higher for better")
    return score


def _finite(loss: float, work: Work, run: Run) -> float:
    if math.isfinite(loss):
        return loss
    epoch, batch = divmod(run.done, len(work.starts))
    raise LaconicError(
        f"training diverged: the loss is {loss} in batch {batch + 1} of {len(work.starts)} of epoch {epoch + 1}, at learning rate "
        f"{run.rate:.3g}; try learning_rate={work.training.learning_rate / 10:.3g}, clip=1.0 or warmup=0.1, and check that all inputs "
        "are finite"
    )


def _settle(work: Work, run: Run) -> None:
    """Leave the weights that were asked for in the model, in eval mode."""
    kept = run.best or run.averages
    checkpoint.put({name: tensor for name, tensor in checkpoint.tensors(work.model).items() if name in kept}, kept)
    work.model.zero_grad()
    work.model.eval()


def _fitted(work: Work, run: Run) -> Fitted:
    top = run.top or run.history[-1]
    kept = top if work.training.keep == "best" else run.history[-1]
    return Fitted(len(run.history), kept.score, top.score, run.history)


def _text(work: Work, run: Run) -> str:
    epoch, batch = divmod(run.done - 1, len(work.starts))
    score = run.history[-1].score if run.history else None
    scored = "" if score is None else f", score {score:.4f}"
    return f"epoch {epoch + 1}/{work.training.epochs}, loss {run.loss / (batch + 1):.4f}{scored}"
