import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from laconic.errors import LaconicError
from laconic.receipt import (
    Attempt,
    Budget,
    Hashes,
    Interval,
    JournalEntry,
    Layer,
    Measurement,
    Ratios,
    Receipt,
    missed,
    read_receipt,
    to_json,
    write_receipt,
)


def interval(median):
    return Interval(**{field.name: median for field in fields(Interval)})


def measurement(file, file_bytes):
    return Measurement(
        file=file,
        runtime="onnxruntime",
        file_bytes=file_bytes,
        parameters=100,
        nonzero_parameters=50,
        macs=1000,
        accuracy=0.1 + 0.2,  # no short decimal
        accuracy_top5=None,
        accuracy_per_class={"Katze": 0.5, "犬": 1 / 3},
        examples=300,
        latency_seconds=interval(1e-4),
        throughput_batch=16,
        throughput_per_second=12345.678,
        peak_memory_bytes=2**31 + 1,
        joules=None,
    )


@pytest.fixture
def receipt():
    recipe = [{"prune.Magnitude": {"sparsity": 0.5, "exclude": ["head"], "quality": None}}]
    return Receipt(
        before=measurement("float.onnx", 4000),
        after=measurement("network.onnx", 1000),
        ratios=Ratios(4.0, interval(2.0), 1.9),
        drop_points=-0.25,
        budget=Budget(max_drop=0.5, smaller=3),
        met=True,
        missed=(),
        recipe=recipe,
        runtime={"name": "onnxruntime"},
        environment={"cores": "2"},
        data={"name": "digits", "examples": {"test": 300}},
        model={"name": "zoo:lenet5", "weights": None},
        seed=7,
        threads=1,
        hashes=Hashes("a", "b", "c", "d"),
        layers=(Layer("stem", "conv2d", 72, 72, 36, 4608, 4608, 288, 153),),
        journal=(JournalEntry("prune.Magnitude", {"sparsity": 0.5}, 0.1, 400, 200, 10, 10, 0.98, 0.97, ("half",)),),
        attempts=(Attempt("int8", recipe, 0.1, 3.9, 2.0, 1000, 0.1, ("2x faster, at least 3x asked",)),),
        command="laconic shrink --model 'zoo:lenet5'",
        version="0.1.0",
    )


def test_a_receipt_comes_back_from_its_file_to_the_last_digit(receipt, tmp_path):
    path = write_receipt(receipt, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "receipt.json"
    assert read_receipt(path.parent) == receipt


def test_the_file_is_readable_json(receipt):
    text = to_json(receipt)
    plain = json.loads(text)
    assert text.endswith("}\n")
    assert text.count("\n") > 50
    assert plain["before"]["accuracy_per_class"]["犬"] == 1 / 3
    assert plain["before"]["joules"] is None
    assert set(plain) == {field.name for field in fields(Receipt)}


def test_a_receipt_is_frozen(receipt):
    with pytest.raises(FrozenInstanceError):
        receipt.met = False
    with pytest.raises(FrozenInstanceError):
        receipt.after.file_bytes = 1


def test_an_absent_receipt_is_told_with_what_writes_one(tmp_path):
    with pytest.raises(LaconicError, match=r"no receipt at .*receipt.json: give the folder that `laconic shrink --out`"):
        read_receipt(tmp_path)


def without(key):
    def change(plain):
        del plain["after"][key]

    return change


def setting(key, value):
    def change(plain):
        plain["after"][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("file_bytes"), r"after\.file_bytes: .*required"),
        (setting("colour", "red"), r"after\.colour: Unexpected keyword"),
        (setting("macs", "many"), r"after\.macs: .*valid integer"),
        (setting("macs", 1.5), r"after\.macs: .*valid integer"),
        (setting("accuracy", float("nan")), r"after\.accuracy: .*finite"),
        (setting("accuracy_top5", float("inf")), r"after\.accuracy_top5"),
        (setting("accuracy_per_class", []), r"after\.accuracy_per_class: Input should be an object"),
    ],
)
def test_a_wrong_receipt_is_told_with_the_place(receipt, tmp_path, change, message):
    plain = json.loads(to_json(receipt))
    change(plain)
    (tmp_path / "receipt.json").write_text(json.dumps(plain))
    with pytest.raises(LaconicError, match=r"receipt\.json is not a whole receipt: " + message):
        read_receipt(tmp_path)


def test_perplexity_stands_only_on_the_receipts_of_language_models(receipt, tmp_path):
    assert "perplexity" not in to_json(receipt)
    spoken = replace(receipt, after=replace(receipt.after, perplexity=4.2))
    assert read_receipt(write_receipt(spoken, tmp_path).parent) == spoken


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff"])
def test_a_file_that_is_no_receipt_is_told(tmp_path, text):
    (tmp_path / "receipt.json").write_text(text)
    with pytest.raises(LaconicError, match=r"receipt\.json is not a whole receipt: file"):
        read_receipt(tmp_path)


def test_a_truncated_receipt_is_told(receipt, tmp_path):
    path = write_receipt(receipt, tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(LaconicError, match="not a whole receipt"):
        read_receipt(tmp_path)


MEETS = {"drop_points": 0.0, "smaller": 100.0, "faster": 100.0, "file_bytes": 1, "latency_ms": 1e-6}
LIMITS = {  # of the budget: (limit, what it limits, a value just on the good side, one just on the bad side, words)
    "max_drop": (0.5, "drop_points", 0.4999, 0.5001, "0.5001 points lost, at most 0.5 allowed"),
    "smaller": (4.0, "smaller", 4.001, 3.999, "3.999x smaller, at least 4x asked"),
    "faster": (2.0, "faster", 2.001, 1.999, "1.999x faster, at least 2x asked"),
    "max_bytes": (123_456, "file_bytes", 123_455, 123_457, "123,457 bytes, at most 123,456 allowed"),
    "max_latency_ms": (2.5, "latency_ms", 2.499, 2.501, "2.501 ms, at most 2.5 ms allowed"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_met_on_its_good_side_and_exactly_and_missed_on_the_other(name):
    limit, field, good, bad, words = LIMITS[name]
    budget = Budget(**{name: limit})
    assert missed(budget, **MEETS | {field: good}) == ()
    assert missed(budget, **MEETS | {field: limit}) == ()
    assert missed(budget, **MEETS | {field: bad}) == (words,)


def test_every_limit_of_a_budget_is_judged():
    assert set(LIMITS) == {field.name for field in fields(Budget)}
    budget = Budget(**{name: limit for name, (limit, *_) in LIMITS.items()})
    bad = {field: value for _, field, _, value, _ in LIMITS.values()}
    assert missed(budget, **bad) == tuple(words for *_, words in LIMITS.values())
    assert missed(Budget(), **bad) == ()


def test_a_drop_of_nothing_allows_nothing_and_a_gain_is_no_drop():
    nothing = Budget(max_drop=0)
    assert missed(nothing, **MEETS) == ()
    assert missed(nothing, **MEETS | {"drop_points": -1.0}) == ()
    assert missed(nothing, **MEETS | {"drop_points": 0.01}) == ("0.01 points lost, at most 0 allowed",)


def test_rounding_of_the_arithmetic_is_no_miss():
    assert missed(Budget(max_drop=0.3), **MEETS | {"drop_points": 100 * (0.9 - 0.897)}) == ()
    assert 100 * (0.9 - 0.897) != 0.3


def test_a_byte_over_a_large_limit_is_a_miss():
    assert missed(Budget(max_bytes=3 * 10**9), **MEETS | {"file_bytes": 3 * 10**9 + 1})


def test_replacing_validates(receipt):
    with pytest.raises(ValueError, match="seed"):
        replace(receipt, seed="seven")
