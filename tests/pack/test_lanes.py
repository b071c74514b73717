import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laconic.pack import lanes, reader
from laconic.pack.file import pack_at_rate, pack_exactly
from laconic.pack.loops import loops
from laconic.pack.lossless import exactly
from laconic.pack.rate import code_tensor, decoded
from laconic.pack.reader import CorruptArtifact
from laconic.pack.trellis import quantizers
from laconic.pack.writer import Coded, Writer, file_of

DRAW = np.random.default_rng(0)
QUICK = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def multiples_of(codes, states, length):
    """Multiples of the step that codes stand for, the trellis anew in each piece; zeros that cannot be become ones."""
    trellis, state, found = (states, *reader.TRELLISES.get(abs(states), (0, 0))), 0, []
    for at, each in enumerate(codes.ravel().tolist()):
        state = 0 if at % length == 0 else state
        second = state & 1
        code = 1 if states < 0 and second and each == 0 else each
        found.append(2 * code - second * ((code > 0) - (code < 0)) if states else code)
        state = reader.after(state, found[-1], trellis)
    return np.array(found, np.int64)


def grid(codes, states, count):
    multiples = multiples_of(codes, states, reader.piece(codes.size, count) if codes.size >= reader.LEAST else codes.size + 1)
    return Coded(codes.shape, "float64", "grid", (states, 0), multiples, states, lanes=count if codes.size >= reader.LEAST else 0)


def both(data):
    """Read a file with the plain and the compiled loops, which must agree."""
    plain, compiled = reader.contents(data)[1], reader.contents(data, loops=loops())[1]
    assert all(plain[name].tobytes() == array.tobytes() for name, array in compiled.items())
    return plain


def laplace(shape, scale=2.0):
    return np.round(DRAW.laplace(size=shape, scale=scale)).astype(np.int64)


@pytest.mark.parametrize("states", [0, 4, 8, 64, -4, -8, -256])
@pytest.mark.parametrize("shape", [(1024,), (5000,), (40, 60), (16, 20, 9), (8, 16, 3, 3), (4, 300, 1, 1), (2, 2, 300), (3, 4, 5, 5, 5)])
def test_codes_come_back_from_the_lanes_whatever_the_shape(shape, states):
    coded = grid(laplace(shape), states, 4)
    found = both(file_of({"w": coded}, {}))["w"]
    assert found.shape == shape
    assert found.ravel().tolist() == coded.codes.tolist()


@pytest.mark.parametrize("count", [1, 2, 7, 64, 4096])
@pytest.mark.parametrize("size", [1024, 1025, 4095, 20_000])
def test_codes_come_back_from_any_number_of_lanes(count, size):
    coded = grid(laplace(size), 8, count)
    assert both(file_of({"w": coded}, {}))["w"].tolist() == coded.codes.tolist()


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros(3000, np.int64),
        np.full(3000, 5),
        np.full(3000, -29),
        np.full(3000, 30),
        np.arange(3000) - 1500,
        10 ** (np.arange(3000) % 12) * np.where(np.arange(3000) % 5, 1, -1),
        np.where(np.arange(3000) == 1700, 1 << 38, 0),
    ],
)
@pytest.mark.parametrize("states", [0, 8, -8])
def test_all_alike_all_different_and_very_large_codes_come_back(codes, states):
    coded = grid(codes, states, 4)
    assert both(file_of({"w": coded}, {}))["w"].tolist() == coded.codes.tolist()


@QUICK
@given(
    st.lists(
        st.tuples(
            st.sampled_from([(3,), (0, 7), (), (1200,), (30, 50), (16, 12, 3, 3)]),
            st.sampled_from([0, *reader.TRELLISES, *(-states for states in reader.TRELLISES)]),
            st.floats(0.1, 40.0),
        ),
        max_size=4,
    ),
    st.integers(1, 40),
    st.integers(0, 99),
)
def test_tensors_large_and_small_of_any_trellis_come_back_together(several, count, seed):
    draw = np.random.default_rng(seed)
    tensors = {
        str(at): grid(np.round(draw.laplace(size=shape, scale=scale)).astype(np.int64), states, count)
        for at, (shape, states, scale) in enumerate(several)
    }
    found = reader.contents(file_of(tensors, {}), loops=loops())[1]
    assert all(found[name].ravel().tolist() == each.codes.tolist() for name, each in tensors.items())


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"])
@pytest.mark.parametrize(
    "make", [lambda: laplace((50, 40)), lambda: DRAW.random((50, 40)) < 0.1, lambda: np.zeros((50, 40)), lambda: np.array(3)]
)
def test_every_kind_of_number_comes_back_to_the_bit(dtype, make):
    arrays = {"x": make().astype(dtype), "empty": np.zeros((0, 3), dtype)}
    found = both(pack_exactly(arrays, {}, fast=True).data)
    assert all(found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes() for name, array in arrays.items())


@pytest.mark.parametrize("states", [0, 8])
def test_the_search_for_codes_knows_where_the_trellis_begins_anew(states):
    array = DRAW.normal(size=(40, 70)).astype(np.float32)
    coded, wanted = code_tensor(array, -20, 0.1, states, lanes=16)
    assert coded.lanes == 16
    assert both(file_of({"w": coded}, {}))["w"].tobytes() == wanted.tobytes() == decoded(coded).tobytes()
    second = quantizers(coded.codes, coded.states, reader.piece(array.size, 16)) if states else np.zeros(1, np.int64)
    assert not second[:: reader.piece(array.size, 16)].any()


def network():
    rows = np.exp(DRAW.normal(size=(64, 1, 1, 1)))
    kernels = DRAW.laplace(size=(64, 40, 3, 3)) * rows + 0.5 * rows * DRAW.normal(size=(64, 40, 1, 1))
    return {"w": kernels.astype(np.float32), "linear": DRAW.normal(size=(10, 64)).astype(np.float32), "bias": np.zeros(64, np.float32)}


def test_a_fast_file_meets_its_rate_and_takes_few_more_bytes():
    arrays = network()
    small, fast = pack_at_rate(arrays, {}, 2.0), pack_at_rate(arrays, {}, 2.0, fast=True)
    assert fast.bits_per_weight <= 2
    errors = [next(row.quality.mean_square_error for row in each.rows if row.name == "w") for each in (small, fast)]
    assert errors[1] < 1.1 * errors[0]
    assert sum(row.bytes for row in fast.rows) < len(fast.data)
    assert {row.name: row.bytes for row in fast.rows}["w"] > 0.9 * len(fast.data)


def test_codes_in_lanes_cost_little_more_than_their_entropy():
    codes = DRAW.choice([-1, 0, 1], (1000, 300), p=[0.02, 0.95, 0.03])
    share = np.bincount(codes.ravel() + 1) / codes.size
    size = len(file_of({"w": grid(codes, 0, 16)}, {}))
    assert size < 1.01 * codes.size * -(share * np.log2(share)).sum() / 8 + 150


def test_tensors_that_are_alike_share_tables_and_others_do_not():
    alike = [grid(laplace((60, 50), 2.0), 0, 4) for _ in range(3)]
    other = grid(DRAW.choice([-7, 3], (60, 50)), 0, 4)
    asides, _ = lanes.laned([(each.shape, each.codes, each.states) for each in (*alike, other)], 4)
    assert [int(each[0][0]) for each in asides] == [1, 0, 0, 1]


def test_numbers_that_are_not_of_the_trellis_are_refused():
    with pytest.raises(ValueError, match="not of the quantizer"):
        file_of({"w": Coded((2000,), "float32", "grid", (8, 0), laplace(2000), 8, lanes=4)}, {})


def test_large_tensors_beside_the_lanes_are_refused():
    tensors = {"a": grid(laplace(2000), 0, 4), "b": grid(laplace(2000), 0, 5)}
    with pytest.raises(ValueError, match="as many lanes"):
        file_of(tensors, {})


@pytest.fixture(scope="module")
def body():
    return file_of({"a": grid(laplace((40, 30)), 8, 3), "b": grid(laplace((5, 6)), 0, 3)}, {})[8:]


def sealed(body):
    return reader.MAGIC + b"\x01" + reader.checksum(np.frombuffer(body, np.uint8)).to_bytes(4, "little") + body


def test_any_other_length_is_refused_though_the_checksum_is_right(body):
    for length in range(len(body)):
        with pytest.raises(CorruptArtifact):
            reader.contents(sealed(body[:length]), loops=loops())
    for more in (b"\0", b"12", b"\0\0\0\0"):
        with pytest.raises(CorruptArtifact):
            reader.contents(sealed(body + more), loops=loops())


def test_lanes_whose_words_are_changed_hardly_ever_end_as_they_should(body):
    places, found = range(8 * (len(body) - 100), 8 * len(body)), 0
    for place in places:
        data = bytearray(body)
        data[place // 8] ^= 1 << place % 8
        try:
            reader.contents(sealed(bytes(data)), loops=loops())
        except CorruptArtifact:
            found += 1
    assert found > 0.98 * len(places)


@pytest.mark.parametrize(
    "said", ["[-1,0]", "[3,5]", "[3,4000000000]", "[4097,8194]", '["3",90]', "[3]", "7", "[1099511627776,1099511627776]"]
)
def test_lanes_that_cannot_be_are_refused(said):
    text = '{"lanes":' + said + ',"tensors":[["w",[2000],"float32","grid",[0,0]]]}'
    writer = Writer()
    writer.write_number(len(text))
    writer.write_bytes(np.frombuffer(text.encode(), np.uint8), 1)
    with pytest.raises(CorruptArtifact):
        reader.read(sealed(writer.finish()))


def test_a_file_of_zeros_is_not_taken_for_one_that_declares_too_much():
    codes = np.zeros((2000, 1000), np.int64)
    assert not reader.contents(file_of({"w": grid(codes, 0, 16)}, {}), loops=loops())[1]["w"].any()


def test_a_form_of_codes_alone_is_preferred_where_it_costs_about_as_much():
    array = DRAW.choice(np.float32([-0.3, 0, 0.3]), (80, 50))
    assert exactly(array, 4).form == "table"
    assert exactly(array, 4).lanes == 4
    assert exactly(array[:3], 4).lanes == 0
    assert exactly(DRAW.normal(size=(80, 50)).astype(np.float32), 4).form == "bytes"
