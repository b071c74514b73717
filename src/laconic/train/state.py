"""What is to be trained, how far it is, and how that is saved and continued."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from laconic.data.dataset import Augment, Split
from laconic.errors import LaconicError
from laconic.program.cut import KeptChannels, Slice, cut, shortened, slices
from laconic.program.program import Program
from laconic.train import checkpoint, layout
from laconic.train.batches import Batches, Drawn
from laconic.train.checkpoint import Checkpoint, Cut
from laconic.train.fused import Fused
from laconic.train.objective import Loss, Score
from laconic.train.optimizer import flatten, optimizer, restore, scales, trained
from laconic.train.settings import Epoch, Training, best, lower_precision

AfterBatch: TypeAlias = Callable[[int, int], KeptChannels | None]
"""Called with (batches done, batches of the whole training); where it returns channels to keep, by group, the program is cut to them.

An empty dict cuts nothing and says that the network has become another, so that the epochs before cannot be the best.
"""

AfterEpoch: TypeAlias = Callable[[Epoch], None]


@dataclass(frozen=True)
class Work:
    """What is to be trained, and how: the arguments of `fit`."""

    model: nn.Module
    train: Split
    training: Training
    loss: Loss
    validation: Split | None
    score: Score
    augment: Augment | None
    seed: int
    device: torch.device
    after_batch: AfterBatch | None
    after_epoch: AfterEpoch | None
    batches: Batches
    compiled: bool

    def __post_init__(self) -> None:
        trained(self.model)
        wants = {"keep='best'": self.training.keep == "best", "patience": self.training.patience is not None}
        if any(wants.values()) and self.validation is None:
            wanted = " and ".join(name for name, want in wants.items() if want)
            raise LaconicError(f"training with {wanted} compares scores of a validation split; give one, or leave {wanted} out")

    @cached_property
    def fused(self) -> Fused | None:
        """The model with its operations put together; None: it is called as it is."""
        return Fused(self.model) if self.compiled else None

    @cached_property
    def starts(self) -> list[int]:
        """Where each batch of an epoch starts; a last batch of a single example is left out."""
        examples, batch = len(self.train), self.training.batch
        starts = list(range(0, examples, batch))
        return starts[:-1] if examples > batch > 1 and examples % batch == 1 else starts

    @cached_property
    def total(self) -> int:
        """Batches of the whole training."""
        return self.training.epochs * len(self.starts)

    @cached_property
    def bfloat16(self) -> bool:
        """Whether the loss is computed under autocast."""
        return lower_precision(self.training.autocast, self.device)

    @cached_property
    def channels_last(self) -> bool:
        """Whether images and kernels lie so in memory."""
        choice = self.training.channels_last
        if choice is True and (kernel := layout.unsafe(self.model, self.device)) is not None:
            raise LaconicError(
                f"channels_last: torch's kernels for this processor (AVX2) would write beyond their memory in training {kernel}; "
                "leave it out"
            )
        return layout.suits(self.model, self.train, self.device) if choice == "auto" else choice


@dataclass
class Run:
    """How far training is: all that changes, so that whoever replaces parameters while it runs replaces them here."""

    parameters: dict[str, nn.Parameter]  # those trained, by name
    optimizer: Optimizer
    random: list[torch.Generator]
    averages: dict[str, Tensor]  # of `parameters`; empty without an average
    best: dict[str, Tensor] = field(default_factory=dict)  # all tensors of the best epoch; empty where it is not kept
    history: tuple[Epoch, ...] = ()
    cuts: tuple[Cut, ...] = ()  # made so far
    done: int = 0  # batches, of all epochs
    loss: float = 0.0  # sum over the batches of the epoch begun
    seconds: float = 0.0  # spent on the epoch begun, until `since`
    since: float = 0.0  # on the monotonic clock
    rate: float = 0.0  # learning rate of the last batch

    @property
    def comparable(self) -> tuple[Epoch, ...]:
        """The epochs scored since the last cut: those before it were of a larger network."""
        return self.history[self.cuts[-1].epochs :] if self.cuts else self.history

    @property
    def top(self) -> Epoch | None:
        """The best of the comparable epochs, the first of equals."""
        return best(self.comparable) if self.comparable else None

    def tick(self) -> None:
        """Count the time that has passed."""
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now


def start(work: Work, random: list[torch.Generator], path: Path | None) -> Run:
    """Begin, or continue from the checkpoint at `path` where there is one."""
    work.model.zero_grad()  # what the caller left
    parameters = trained(work.model)
    averages = {} if work.training.ema is None else checkpoint.copies(parameters)
    run = Run(parameters, optimizer(list(parameters.values()), work.training, scales(work.model)), random, averages)
    if path is not None and path.exists():
        _resume(work, run, checkpoint.read(path))
    return run


def save(work: Work, run: Run, path: Path | None) -> None:
    """Write all of `run` and the model to `path`; None: nowhere."""
    if path is None:
        return
    random = {str(index): source.get_state() for index, source in enumerate(run.random)}
    model, state = checkpoint.tensors(work.model), flatten(run.optimizer)
    saved = Checkpoint(run.done, run.loss, run.seconds, run.history, run.cuts, model, run.averages, run.best, state, random)
    checkpoint.write(saved, path)


def change(work: Work, run: Run, keep: KeptChannels) -> None:
    """Cut the program to the channels that stay, if any are named; what was scored before was another network."""
    if keep:
        shorten(work, run, keep)
    run.best = {}
    if keep or not run.cuts or run.cuts[-1].epochs < len(run.history):
        run.cuts = (*run.cuts, Cut(len(run.history), {name: list(channels) for name, channels in keep.items()}))


def shorten(work: Work, run: Run, keep: KeptChannels) -> None:
    """Cut the program to the channels that stay, and with its parameters the optimizer's state and the averages.

    Raises:
        LaconicError: the model is no program, or `program.cut.cut` refuses.
    """
    if not isinstance(work.model, Program):
        raise LaconicError(f"only a captured program can be cut while it trains; this model is a {type(work.model).__name__}")
    sliced = {id(work.model.get_parameter(name)): kept for name, kept in slices(work.model, keep).items() if _is_parameter(work, name)}
    flags = {name: parameter.requires_grad for name, parameter in work.model.named_parameters()}
    cut(work.model, keep)
    for name, parameter in work.model.named_parameters():
        parameter.requires_grad_(flags[name])  # a representation is made anew
    for name, parameter in trained(work.model).items():
        _follow(run, name, parameter, sliced.get(id(parameter), ()))
    if work.channels_last and layout.unsafe(work.model, work.device):
        layout.lay_out(work.model, torch.contiguous_format)
        vars(work)["channels_last"] = False  # from here on


def _is_parameter(work: Work, name: str) -> bool:
    return name in dict(work.model.named_parameters(remove_duplicate=False))


def _follow(run: Run, name: str, parameter: nn.Parameter, kept: Sequence[Slice]) -> None:
    """Bring what is kept for a parameter to its new shape: by the same cut, or anew where it is another parameter now."""
    before = run.parameters[name]
    state, average = run.optimizer.state.pop(before, {}), run.averages.get(name)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor) and value.ndim}
    for key, value in tensors.items():
        state[key] = shortened(value, kept) if before is parameter else torch.zeros_like(parameter)
    if average is not None:
        run.averages[name] = shortened(average, kept) if before is parameter else parameter.detach().clone()
    for group in run.optimizer.param_groups:
        group["params"] = [parameter if each is before else each for each in group["params"]]
    run.optimizer.state[parameter] = state
    run.parameters[name] = parameter


def name(work: Work) -> str:
    """Return the file name of this work's checkpoint, which no other work has."""
    callables: list[Any] = [work.loss, work.score, work.augment, work.after_batch, work.after_epoch]
    callables += [] if isinstance(work.batches, Drawn) else [work.batches]
    settings = [asdict(work.training), work.seed, *map(describe, callables)]
    return f"training-{checkpoint.key(work.model, [work.train, work.validation], settings)}.safetensors"


def _resume(work: Work, run: Run, saved: Checkpoint) -> None:
    for each in saved.cuts:
        if each.keep:
            shorten(work, run, each.keep)
    run.cuts = saved.cuts
    run.done, run.loss, run.seconds, run.history = saved.done, saved.loss, saved.seconds, saved.history
    run.best = {name: tensor.to(work.device) for name, tensor in saved.best.items()}
    checkpoint.put(checkpoint.tensors(work.model), saved.model)
    checkpoint.put(run.averages, saved.averages)
    restore(run.optimizer, saved.optimizer)
    for index, source in enumerate(run.random):
        source.set_state(saved.random[str(index)])


def describe(function: Any) -> list[Any]:
    """Name a callable by what stays the same from process to process: its own or its class's name, and its plain settings."""
    inner = getattr(function, "func", function)  # of a partial
    settings = {**getattr(function, "keywords", {}), **getattr(function, "__dict__", {})}
    plain = {name: value for name, value in settings.items() if isinstance(value, str | int | float)}
    return [getattr(inner, "__qualname__", type(inner).__qualname__), plain]
