"""Targets that need no labels: what the network itself gives, so that what is scored is how near its successor comes.

For encoders of sentences or images, whose outputs are vectors, and for data without labels.
"""

from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from laconic.data import Split, Splits
from laconic.program import Program
from laconic.train.progress import bar

Against: TypeAlias = Literal["labels", "network"]
"""What outputs are scored against: the labels of the data, or what the float network gives (by cosine)."""

_BATCH = 32


def against_network(splits: Splits, program: Program) -> Splits:
    """Return the splits with the network's outputs, flattened, in place of labels; there is no training part, which would need them too."""
    total = sum(len(part) for part in (splits.calibration, splits.validation, splits.test))
    with bar("outputs of the float network", 0, total) as tell:
        done = 0

        def with_outputs(part: Split) -> Split:
            nonlocal done
            rows = list[NDArray[Any]]()
            with torch.no_grad():
                for inputs, _ in part.batches(_BATCH):
                    rows.append(program(inputs).reshape(len(inputs), -1).float().numpy())
                    done += len(inputs)
                    tell(done, "")
            return replace(part, labels=np.concatenate(rows))

        calibration, validation, test = map(with_outputs, (splits.calibration, splits.validation, splits.test))
    return Splits(None, calibration, validation, test, splits.augment)
