"""A receipt as a real run would write it; its numbers are invented."""

from dataclasses import replace

import pytest

from laconic.measure.latency import Interval
from laconic.receipt import Attempt, Budget, Hashes, JournalEntry, Layer, Measurement, Ratios, Receipt

RECIPE = [
    {"prune.Filters": {"ratio": 0.5, "exclude": ["fc"]}},
    {"distill.Response": {"temperature": 4.0, "alpha": 0.7, "epochs": 5}},
    {"quantize.Static": {"weight_bits": 8, "activation_bits": 8}},
]
CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def measurement(**changes) -> Measurement:
    before = Measurement(
        file="baseline.onnx",
        runtime="onnxruntime",
        file_bytes=1_107_200,
        parameters=271_800,
        nonzero_parameters=271_800,
        macs=41_000_000,
        accuracy=0.9134,
        accuracy_top5=0.9971,
        accuracy_per_class={name: 0.82 + 0.018 * index for index, name in enumerate(CLASSES)},
        examples=10_000,
        latency_seconds=Interval(0.00124, 0.00121, 0.00127),
        throughput_batch=64,
        throughput_per_second=1894.0,
        peak_memory_bytes=91_300_000,
        joules=None,
    )
    return replace(before, **changes)


def layer(name: str, kind: str, parameters: int, macs: int) -> Layer:
    rest = (parameters // 2, parameters // 2, macs, macs // 2, parameters * 4, parameters // 2 + 200)
    return Layer(name, kind, parameters, *rest, seconds_before=macs * 2e-11, seconds_after=macs * (1.8e-11 if name == "conv1" else 1e-11))


def attempt(name: str, drop: float, smaller: float, faster: float, *missed: str, recipe=None) -> Attempt:
    return Attempt(name, recipe or RECIPE[2:], drop, smaller, faster, round(1_107_200 / smaller), 1.24 / faster, missed)


@pytest.fixture(scope="session")
def receipt() -> Receipt:
    after = measurement(
        file="model.onnx",
        file_bytes=283_166,
        parameters=136_000,
        nonzero_parameters=135_100,
        macs=20_700_000,
        accuracy=0.9122,
        accuracy_top5=0.9968,
        accuracy_per_class={name: 0.815 + 0.0185 * index for index, name in enumerate(CLASSES)},
        latency_seconds=Interval(0.00059, 0.00057, 0.00062),
        throughput_per_second=4120.0,
        peak_memory_bytes=84_900_000,
    )
    names = ["conv1", *(f"layer{stage}.{block}.conv{number}" for stage in (1, 2, 3) for block in (0, 1, 2) for number in (1, 2))]
    return Receipt(
        before=measurement(),
        after=after,
        ratios=Ratios(smaller=3.91, faster=Interval(2.1, 1.93, 2.31), throughput=2.18),
        drop_points=0.12,
        budget=Budget(max_drop=0.5, smaller=3.5, faster=2.0),
        met=True,
        missed=(),
        recipe=RECIPE,
        runtime={"name": "onnxruntime", "version": "1.23.0", "threads": "2"},
        environment={
            "cpu": "Intel Xeon, 2 cores, AVX-512 VNNI",
            "memory": "8.2 GB",
            "python": "3.11.7",
            "torch": "2.13.0",
            "os": "Debian 12",
        },
        data={"name": "fashion-mnist", "train": 50_000, "validation": 10_000, "test": 10_000, "source": "Zalando Research, MIT licence"},
        model={"name": "resnet20", "source": "trained by laconic, 20 epochs", "input": [1, 28, 28]},
        seed=0,
        threads=2,
        hashes=Hashes(model="a" * 64, data="b" * 64, artifact="c" * 64, baseline="d" * 64),
        layers=(*(layer(name, "conv2d", 9 * 16 * 32, 2_300_000) for name in names), layer("fc", "linear", 650, 640)),
        journal=(
            JournalEntry("prune.Filters", {"ratio": 0.5, "exclude": ["fc"]}, 4.2, 1_087_200, 545_000, 41_000_000, 20_700_000, 0.916, 0.402),
            JournalEntry(
                "distill.Response",
                {"temperature": 4.0, "alpha": 0.7, "epochs": 5},
                754.0,
                545_000,
                545_000,
                20_700_000,
                20_700_000,
                0.402,
                0.914,
            ),
            JournalEntry(
                "quantize.Static",
                {"weight_bits": 8, "activation_bits": 8},
                11.3,
                545_000,
                139_000,
                20_700_000,
                20_700_000,
                0.914,
                0.9135,
                ("first and last layer kept at 8 bits", "bias corrected on 512 calibration inputs"),
            ),
        ),
        attempts=(
            attempt("int8", -0.02, 3.6, 1.7, "1.7x faster, asked 2x"),
            attempt("int8, half the filters", 0.31, 3.91, 2.1, recipe=RECIPE),
            attempt("int8, three quarters of the filters removed", 1.9, 10.4, 3.4, "1.90 points lost, asked 0.5"),
            attempt("4 bits", 0.7, 6.9, 1.0, "0.70 points lost, asked 0.5", "1.0x faster, asked 2x"),
        ),
        command="laconic shrink resnet20 --data fashion-mnist --smaller 3.5 --faster 2 --max-drop 0.5",
        version="0.1.0",
    )
