"""What a network is worth, in numbers: a callable on arrays and data in, shares, bytes, operations, seconds and joules out.

Importing this package imports neither torch nor a runtime, so that a fresh process whose memory is measured can use it.
"""

from laconic.measure.accuracy import RARE, Accuracy, Predict, Ranked, accuracy, ranked, rare, tally
from laconic.measure.energy import NO_METER, Meter, joules, meter
from laconic.measure.latency import Interval, differs, interleaved, median_interval, ratio_interval
from laconic.measure.macs import macs, macs_per_node
from laconic.measure.memory import peak_bytes
from laconic.measure.size import file_bytes, nonzero_parameters, parameters

__all__ = [
    "NO_METER",
    "RARE",
    "Accuracy",
    "Interval",
    "Meter",
    "Predict",
    "Ranked",
    "accuracy",
    "differs",
    "file_bytes",
    "interleaved",
    "joules",
    "macs",
    "macs_per_node",
    "median_interval",
    "meter",
    "nonzero_parameters",
    "parameters",
    "peak_bytes",
    "ranked",
    "rare",
    "ratio_interval",
    "tally",
]
