"""A teacher asked once: its answers to a number of views of every example are kept, so that later epochs cost what plain training does.

A view is what augmentation makes of an example, drawn from (seed, view, example) alone, so that it comes back the same whenever its epoch's
turn comes. Source: L. Beyer, X. Zhai, A. Royer, L. Markeeva, R. Anil, A. Kolesnikov, "Knowledge Distillation: A Good Teacher Is Patient and
Consistent", CVPR 2022: teacher and student are to see the very same view, which answers that were computed before for another do not give.

The answers to one view lie in memory at a time, as `distill.kept` writes them, and in a file of their own with a checksum. What is not
known yet is asked when it is needed; a file that was damaged is asked for again.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laconic.data.dataset import Augment, DrawnAhead, Split
from laconic.distill.kept import Form, Likeliest, Whole, form_of
from laconic.files import write_bytes

Ask = Callable[[Tensor], tuple[Tensor, ...]]
"""Maps inputs to a teacher's answers."""

LARGEST = 2 << 30  # bytes that the answers to one view may take in memory
_PROBED = 64  # examples whose answers tell how they are kept


class Remembered:
    """The batches of a training with a teacher's answers behind the labels."""

    def __init__(
        self, split: Split, augment: Augment | None, ask: Ask, views: int, seed: int, device: str, folder: Path | None, temperature: float
    ) -> None:
        """Take what batches are drawn from, who answers, and how many views of an example there are.

        Args:
            split: the examples.
            augment: changes them.
            ask: gives the answers to inputs on `device`.
            views: epochs after which views come again.
            seed: of the views.
            device: where the teacher is.
            folder: where answers are kept; None: in memory only, of one view at a time.
            temperature: at which logits are compared.
        """
        self._split, self._augment, self._ask, self._device, self._folder = split, augment, ask, device, folder
        self.views, self.seed = views, seed
        self._view, self._drawn, self._changed = -1, torch.empty(0), False
        self._forms = self._probe(temperature)
        self._table = np.empty((0, 0), np.float16)

    @property
    def bytes(self) -> int:
        """What the answers to one view take."""
        return 2 * len(self._split) * self._columns

    @property
    def about(self) -> str:
        """How answers are kept, in words."""
        logits = self._forms[0]
        if isinstance(logits, Likeliest):
            return f"of the teacher's answers the {logits.count} likeliest of {logits.shape[-1]} classes are kept: they say 99 % or more"
        return "the teacher's answers are kept whole"

    @property
    def _columns(self) -> int:
        return sum(form.columns for form in self._forms)

    def __call__(self, indices: NDArray[np.int64], epoch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return inputs, labels and answers; the generator is not used, since views are to come again."""
        if epoch % self.views != self._view:
            self.keep()
            self._turn_to(epoch % self.views)
        inputs, labels = self._split.batch(indices)
        inputs = self._seen(inputs, indices)
        unknown = np.isnan(self._table[indices, 0])
        if unknown.any():
            asked = self._ask(inputs[torch.from_numpy(unknown)].to(self._device))
            rows = [form.written(answer.cpu()).numpy() for form, answer in zip(self._forms, asked, strict=True)]
            self._table[indices[unknown]] = np.concatenate(rows, 1)
            self._changed = True
        parts = torch.from_numpy(self._table[indices]).split([form.columns for form in self._forms], 1)
        return inputs, labels, *(form.read(part) for form, part in zip(self._forms, parts, strict=True))

    def keep(self, _: Any = None) -> None:
        """Write what is new of this view."""
        if self._folder is not None and self._changed:
            content = self._table.tobytes()
            write_bytes(self._path(self._view), hashlib.sha256(content).digest() + content)
        self._changed = False

    def _probe(self, temperature: float) -> list[Form]:
        """Ask for the answers to some examples, and choose how such are kept."""
        inputs, _ = self._split.batch(np.arange(min(_PROBED, len(self._split))))
        logits, *features = self._ask(inputs.to(self._device))
        return [form_of(logits.cpu(), temperature), *(Whole(tuple(each.shape[1:])) for each in features)]

    def _turn_to(self, view: int) -> None:
        self._view = view
        self._table = self._read(view, self._columns)
        if isinstance(self._augment, DrawnAhead):
            self._drawn = self._augment.draw(len(self._split), _generator(self.seed, view, len(self._split)))

    def _read(self, view: int, columns: int) -> NDArray[np.float16]:
        empty = np.full((len(self._split), columns), np.nan, np.float16)
        path = self._path(view)
        if path is None or not path.is_file():
            return empty
        content = path.read_bytes()
        whole = len(content) == 32 + empty.nbytes and hashlib.sha256(content[32:]).digest() == content[:32]
        return np.frombuffer(content[32:], np.float16).reshape(empty.shape).copy() if whole else empty

    def _path(self, view: int) -> Any:
        return None if self._folder is None else self._folder / f"answers-{view:03}.bin"

    def _seen(self, inputs: Tensor, indices: NDArray[np.int64]) -> Tensor:
        """Return the inputs as this view has them."""
        if self._augment is None:
            return inputs
        if isinstance(self._augment, DrawnAhead):
            return self._augment.apply(inputs, self._drawn[torch.from_numpy(indices)])
        each = zip(inputs.split(1), indices, strict=True)
        return torch.cat([self._augment(one, _generator(self.seed, self._view, int(index))) for one, index in each])


def _generator(*numbers: int) -> torch.Generator:
    """Return a generator that is seeded by all of the numbers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))
