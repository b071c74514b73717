import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from laconic.pack import reader
from laconic.pack.loops import loops
from laconic.pack.lossless import exactly
from laconic.pack.writer import Coded, Writer, file_of

LAPLACE = np.round(np.random.default_rng(0).laplace(size=3000, scale=2)).astype(np.int64)


def multiples_of(codes, states):
    """Multiples of the step that codes stand for, by a parity check over the history; zeros that cannot be become ones."""
    if not states:
        return codes
    feedback, forward = reader.TRELLISES[abs(states)]
    memory, branches, seconds, found = abs(states).bit_length() - 1, list[int](), list[int](), list[int]()
    for n, each in enumerate(codes.tolist()):
        parity = 0
        for back in range(1, min(memory, n) + 1):
            parity ^= (feedback >> back & 1) & seconds[n - back] ^ (forward >> back & 1) & branches[n - back]
        code = 1 if states < 0 and parity and each == 0 else each
        found.append(2 * code - parity * ((code > 0) - (code < 0)))
        seconds.append(parity)
        branches.append((code if states > 0 else found[-1] >> 1) & 1)
    return np.array(found, np.int64)


def grid(shape, states=0, settings=(-40, 7, 3, 0)):
    codes = LAPLACE[: int(np.prod(shape))]
    return Coded(shape, "float32", "grid", (states, *settings), multiples_of(codes, states), states)


@pytest.mark.parametrize("states", sorted(reader.TRELLISES))
@pytest.mark.parametrize("sign", [1, -1])
def test_the_second_quantizer_is_used_where_the_parity_check_of_the_history_says_so(states, sign):
    multiples = multiples_of(LAPLACE[:500], sign * states)
    writer = Writer()
    writer.write_codes((500,), multiples, sign * states)
    stream = reader.Stream(np.frombuffer(writer.finish(), np.uint8))
    assert stream.codes((500,), 500, sign * states).tolist() == multiples.tolist()


@pytest.mark.parametrize("states", [0, 4, 8, 64, -8])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 0), (20, 30), (4, 5, 9), (6, 5, 3, 3), (2, 2, 2, 3, 3)])
def test_codes_come_back_whatever_the_shape(shape, states):
    coded = grid(shape, states)
    assert coded.codes is not None
    wanted = np.array(64 * coded.codes.ravel(), float)
    wanted -= np.sign(wanted) * np.where(np.abs(wanted) == 64, 7, np.where(np.abs(wanted) == 128, 3, 0))
    found = reader.read(file_of({"w": coded}, {}))["w"]
    assert found.shape == shape
    assert found.dtype == np.float32
    assert found.ravel().tolist() == (wanted * (2 ** (-40 / 16) / 64)).astype(np.float32).tolist()


@pytest.mark.parametrize("codes", [np.zeros(600, np.int64), np.full(600, 5), np.arange(600) - 300, 10 ** np.arange(12)])
def test_all_alike_all_different_and_very_large_codes_come_back(codes):
    data = file_of({"w": Coded((len(codes),), "int64", "table", (0, 1), codes * 0, 0, np.array([3]))}, {})
    assert reader.read(data)["w"].tolist() == [3] * len(codes)
    writer = Writer()
    writer.write_codes(codes.shape, codes, 0)
    stream = reader.Stream(np.frombuffer(writer.finish() or b"\0", np.uint8))
    assert stream.codes(codes.shape, len(codes), 0).tolist() == codes.tolist()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"])
@pytest.mark.parametrize(
    "make",
    [
        lambda g: g.normal(size=(3, 5)) * 20,
        lambda g: g.integers(0, 3, (30, 20)),
        lambda g: g.normal(size=(40, 30)) * (g.random((40, 30)) < 0.1) * 50,
        lambda g: np.zeros((3, 4)),
        lambda g: np.full((5,), 7),
        lambda g: np.zeros((0, 3)),
        lambda g: np.array(3),
    ],
)
def test_every_kind_of_number_comes_back_to_the_bit(dtype, make):
    array = make(np.random.default_rng(0)).astype(dtype)
    found = reader.read(file_of({"x": exactly(array)}, {}))["x"]
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


def test_nan_infinity_and_negative_zero_come_back_to_the_bit():
    array = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 5e-324, 1.5] * 20)
    assert reader.read(file_of({"x": exactly(array)}, {}))["x"].tobytes() == array.tobytes()


def test_zeros_and_tables_are_found():
    draw = np.random.default_rng(0)
    sparse = (draw.normal(size=(50, 60)) * (draw.random((50, 60)) < 0.05)).astype(np.float32)
    assert exactly(sparse).form == "sparse"
    assert exactly(draw.choice(np.float32([-0.3, 0, 0.1, 0.7]), (50, 60))).form == "table"
    assert exactly(np.zeros((4, 4), np.float32)).form == "same"
    assert exactly(draw.normal(size=(50, 60)).astype(np.float32)).form == "bytes"


def test_codes_cost_little_more_than_their_entropy():
    codes = np.random.default_rng(1).choice([-1, 0, 1], 40_000, p=[0.02, 0.95, 0.03])
    share = np.bincount(codes + 1) / len(codes)
    writer = Writer()
    writer.write_codes((200, 200), codes, 0)
    assert len(writer.finish()) < 1.02 * len(codes) * -(share * np.log2(share)).sum() / 8 + 20


def test_text_costs_a_fraction_of_its_letters():
    tensors = {f"layer{i}.0.conv{j}.weight": grid((4, 3, 3, 3)) for i in range(1, 4) for j in range(1, 3)}
    letters = len(str([[name, [4, 3, 3, 3], "float32", "grid", [0, -40, 7, 3, 0]] for name in tensors]))
    with_names = len(file_of(tensors, {}))
    without = len(file_of({str(i): each for i, each in enumerate(tensors.values())}, {}))
    assert with_names - without < letters / 8


def test_compiled_and_plain_loops_read_the_same():
    data = file_of({"a": grid((20, 30), 8), "b": exactly(np.float32([1.5, -2, 3]))}, {"network": "zoo:lenet300"})
    plain = reader.contents(data)
    compiled = reader.contents(data, loops=loops())
    assert plain[0] == compiled[0]
    assert all(plain[1][name].tobytes() == array.tobytes() for name, array in compiled[1].items())


def test_numpy_alone_is_needed(tmp_path):
    data = file_of({"a": grid((20, 30), 8)}, {})
    (tmp_path / "network.lac").write_bytes(data)
    (tmp_path / "reader.py").write_text(Path(reader.__file__).read_text())
    program = (
        "import sys; before = set(sys.modules); import numpy; known = set(sys.modules)\n"
        "import reader; array = reader.read('network.lac')['a']\n"
        "assert not {name.partition('.')[0] for name in set(sys.modules) - known} - {'reader', 'numpy'}, set(sys.modules) - known\n"
        "print(array.tobytes().hex())"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == reader.read(data)["a"].tobytes().hex()


def test_the_reader_has_at_most_500_lines():
    assert len(Path(reader.__file__).read_text().splitlines()) <= 500


@pytest.fixture(scope="module")
def whole():
    return file_of({"a": grid((6, 10), 8), "b": exactly(np.float32([1.5, -2, 3]))}, {"network": "zoo:lenet300"})


def test_every_flipped_bit_is_found(whole):
    for position in range(8 * len(whole)):
        data = bytearray(whole)
        data[position // 8] ^= 1 << position % 8
        with pytest.raises(reader.CorruptArtifact):
            reader.read(bytes(data))


def test_every_truncation_is_found(whole):
    for length in range(len(whole)):
        with pytest.raises(reader.CorruptArtifact):
            reader.read(whole[:length])


def test_a_newer_version_says_so(whole):
    with pytest.raises(reader.CorruptArtifact, match="version 9"):
        reader.read(whole[:3] + b"\x09" + whole[4:])


@pytest.mark.parametrize(
    "entry",
    [
        ["w", [1 << 30], "float32", "bytes", []],
        ["w", [1 << 39, 1 << 39], "float32", "same", []],
        ["w", [-1], "float32", "bytes", []],
        ["w", [3], "object", "bytes", []],
        ["w", [3], "float32", "pickle", []],
        ["w", [3], "float32", "grid", [5, 0]],
        ["w", [3], "float32", "grid", [8, 1 << 40]],
        ["w", [3], "float32", "table", [0, 1 << 60]],
        ["w", [3], "float32", "table", ["a", []]],
        ["w", "abc", "float32", "bytes", []],
        ["w", [3], "float32", "table", [0, True]],
        ["w", [3], "float32", "grid", ["8", 0]],
        ["w", [3], "float32", "grid", [None, 0]],
        ["w", [3], "float32", "grid", [0, 9000]],
        ["w", [3], "int8", "grid", [0, 0]],
        ["w", [3], "float32", "grid", [0, 0, *[1] * 15]],
        ["w", [3], "int8", "bytes", ["float64"]],
        ["w", [3], "float16", "bytes", ["float32"]],
        ["w", [3], "float32", "text", []],
        ["w", [3], "float32"],
        [["w"], [3], "float32", "bytes", []],
        "w",
        7,
    ],
)
def test_a_header_that_makes_no_sense_is_refused_though_its_checksum_is_right(entry):
    with pytest.raises(reader.CorruptArtifact):
        reader.read(a_file_of_text(json.dumps({"tensors": [entry]}, separators=(",", ":"))))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "[",
        '"',
        "{]",
        "[1[2]]",
        "-",
        "9" * 5000,
        "[" * 2000,
        '{[1]:2,"tensors":[]}',
        '{"tensors":7}',
        "{}",
        "[]",
        '{"tensors":[]}]',
    ],
)
def test_a_header_that_is_no_json_of_tensors_is_refused_though_its_checksum_is_right(text):
    with pytest.raises(reader.CorruptArtifact):
        reader.read(a_file_of_text(text))


def test_an_empty_tensor_of_very_many_rows_takes_no_time():
    entry = ["w", [1 << 39, 0], "float32", "grid", [8, 0]]
    found = reader.read(a_file_of_text(json.dumps({"tensors": [entry]}, separators=(",", ":"))))["w"]
    assert found.shape == (1 << 39, 0)


def test_values_beyond_a_kind_are_its_largest():
    coded = Coded((3,), "float16", "grid", (0, 16 * 20), np.array([-1, 0, 9]), 0)
    assert reader.read(file_of({"w": coded}, {}))["w"].tolist() == [-65504, 0, 65504]


def test_tensors_that_the_file_ends_before_are_refused_though_the_checksum_is_right():
    whole = body_of(file_of({"w": grid((20, 30), 8)}, {}))
    for length in range(60, len(whole) - 8):
        with pytest.raises(reader.CorruptArtifact):
            reader.contents(sealed(whole[:length]), loops=loops())


def test_bytes_behind_the_last_tensor_are_refused_though_the_checksum_is_right():
    with pytest.raises(reader.CorruptArtifact, match="goes on behind"):
        reader.read(sealed(body_of(file_of({"w": grid((20, 30), 8)}, {})) + b"12345678"))


def test_a_long_run_that_is_coded_as_zeros_alone_is_not_taken_for_a_file_that_ends_too_early():
    stored = np.r_[np.uint8(0), np.full(300_000, 255, np.uint8)]
    data = file_of({"w": Coded(stored.shape, "uint8", "bytes", stored=stored)}, {})
    assert (reader.contents(data, loops=loops())[1]["w"] == stored).all()


def test_dear_surprises_after_what_was_certain_have_room():
    sure, surprises = np.zeros(30_000, np.uint8), np.random.default_rng(0).integers(0, 256, 4000, np.uint8)
    parts = {f"{i}": Coded(each.shape, "uint8", "bytes", stored=each) for i, each in enumerate([sure, *surprises.reshape(100, 40)])}
    found = reader.contents(file_of(parts, {}), loops=loops())[1]
    assert all((found[name] == each.stored).all() for name, each in parts.items())


def body_of(data):
    return data[8:]


def sealed(body):
    return reader.MAGIC + b"\x01" + reader.checksum(np.frombuffer(body, np.uint8)).to_bytes(4, "little") + body


def a_file_of_text(text):
    """A file of a header's text, whatever it says."""
    writer = Writer()
    writer.write_number(len(text))
    writer.write_bytes(np.frombuffer(text.encode(), np.uint8), 1)
    return sealed(writer.finish())


def test_the_callers_limit_is_kept():
    data = file_of({"w": exactly(np.zeros(100_000, np.float32))}, {})
    assert reader.read(data)["w"].shape == (100_000,)
    with pytest.raises(reader.CorruptArtifact, match="beyond the limit of 100000 bytes"):
        reader.read(data, limit=100_000)


def test_the_checksum_is_the_usual_one():
    import zlib

    data = np.random.default_rng(0).integers(0, 256, 1000, np.uint8)
    assert reader.checksum(data) == zlib.crc32(data.tobytes())
