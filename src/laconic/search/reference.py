"""What an attempt's validation accuracy is compared with: the network as it came, or, where that has seen the images, one trained alike.

Validation images that are cut from the training data have mostly been trained on by whoever trained the network, and it scores higher there
than on new images. Whatever is trained again without them forgets them, which looks like a loss and is none. So such an attempt is compared
with a control: the uncompressed network after the same training. That still remembers more of them than a network which lost part of what
it knew, so that the drop is an upper bound. The verdict on the receipt is of the test split and needs none of this.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from laconic.deliver import Exported, Say, export, score
from laconic.job import Job
from laconic.program import clone
from laconic.recipe import apply, parse, plain
from laconic.search.ladder import INTEGERS, Rung
from laconic.store import Store, key

_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Reference:
    """Gives the validation accuracy that an attempt's is compared with."""

    baseline: Exported
    job: Job
    store: Store
    say: Say

    def of(self, rung: Rung) -> tuple[float, bool]:
        """Return the accuracy, and whether it is that of a control. Rungs that only take integers keep what was learned and need none."""
        whole = self._accuracy(self.baseline)
        steps = parse(rung.recipe) if rung.recipe and rung.kind != INTEGERS else []
        training = [step for step in steps if getattr(step, "trains", False)]
        if not training or not self._was_seen(whole):
            return whole, False
        self.say("      the network has been trained on the validation images: compared with the whole one after the same training")
        control = apply(clone(self.job.program), training, self.job.context, self.store).program
        name = f"control-{key(self.job.model_hash, self.job.data_hash, self.job.origin.seed, plain(training))}"
        return self._accuracy(export(control, name, self.baseline.file.runtime, self.job, self.store)), True

    def _accuracy(self, side: Exported) -> float:
        return float(score(side.file, self.job.splits.validation, "validation", self.job, self.store)["top1"])

    def _was_seen(self, accuracy: float) -> bool:
        """Say whether the network scores as high on the validation images, cut from the training data, as on as many that stayed there."""
        train, size = self.job.splits.train, len(self.job.splits.validation)
        if train is None or self.job.dataset.validation is not None:
            return False
        sample = train.take(np.linspace(0, len(train) - 1, min(size, len(train))).astype(int))
        known = float(score(self.baseline.file, sample, "training", self.job, self.store)["top1"])
        return known - accuracy < _STANDARD_ERRORS * sqrt((known * (1 - known) + accuracy * (1 - accuracy)) / size)
