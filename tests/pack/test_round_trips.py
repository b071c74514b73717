import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from laconic.pack import reader
from laconic.pack.file import pack_exactly
from laconic.pack.loops import loops
from laconic.pack.lossless import exactly
from laconic.pack.writer import Coded, Writer, file_of

KINDS = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "bool")
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def arrays(draw):
    """Arrays of every kind and shape: of any bits, of few values, of mostly zeros, all alike."""
    kind, shape = np.dtype(draw(st.sampled_from(KINDS))), draw(SHAPES)
    values = draw(st.sampled_from(["any", "few", "sparse", "equal", "zero"]))
    any_bits = draw(arrays_of.arrays(kind, shape, elements=arrays_of.from_dtype(kind)))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    if values == "few":
        return generator.choice(np.arange(3), shape).astype(kind)
    if values == "sparse":
        return np.where(generator.random(shape) < 0.2, any_bits, np.zeros((), kind))
    if values in ("equal", "zero"):
        return np.full(shape, 5 if values == "equal" else 0, kind)
    return any_bits


def fast(data):
    return reader.contents(data, loops=loops())[1]


def same_bits(found, wanted):
    return found.dtype == wanted.dtype and found.shape == wanted.shape and found.tobytes() == wanted.tobytes()


@QUICK
@given(st.lists(arrays(), max_size=4))
def test_whatever_is_packed_to_the_bit_comes_back(several):
    named = {f"tensor.{i}": array for i, array in enumerate(several)}
    packed = pack_exactly(named, {"network": "zoo:lenet5"})
    found = fast(packed.data)
    assert list(found) == list(named)
    assert all(same_bits(found[name], array) for name, array in named.items())


def every_form(array):
    """Code an array in every form that can hold it to the bit."""
    flat, bits = array.ravel(), array.ravel().view(f"u{array.dtype.itemsize}")
    forms = [Coded(array.shape, array.dtype.name, "bytes", stored=flat)]
    if flat.size:
        kept = bits != 0
        forms.append(Coded(array.shape, array.dtype.name, "sparse", (), kept.astype(np.int64), 0, flat[kept]))
        values, codes = np.unique(bits, return_inverse=True)
        below = len(values) // 2
        table = values.view(array.dtype)
        forms.append(Coded(array.shape, array.dtype.name, "table", (below, len(values)), codes.ravel() - below, 0, table))
    if flat.size and (bits == bits[0]).all():
        forms.append(Coded(array.shape, array.dtype.name, "same", stored=flat[:1]))
    if array.dtype == np.uint8:
        forms.append(Coded(array.shape, "uint8", "text", stored=flat))
    return forms


@QUICK
@given(arrays())
def test_every_form_that_can_hold_an_array_gives_it_back_to_the_bit(array):
    forms = every_form(array)
    found = fast(file_of({each.form: each for each in forms}, {}))
    assert all(same_bits(found[each.form], array) for each in forms)


def multiples_of(codes, states):
    """Multiples of the step that codes stand for; zeros that cannot be become ones."""
    state, found = 0, []
    for each in codes.ravel().tolist():
        second = state & 1
        code = 1 if states < 0 and second and each == 0 else each
        found.append(2 * code - second * ((code > 0) - (code < 0)) if states else code)
        state = reader.after(state, found[-1], (states, *reader.TRELLISES.get(abs(states), (0, 0))))
    return np.array(found, np.int64)


@QUICK
@given(
    st.sampled_from(["float64", "float32", "float16"]),
    arrays_of.arrays(np.int64, SHAPES, elements=st.integers(-40, 40) | st.integers(-(1 << 20), 1 << 20)),
    st.sampled_from([0, *reader.TRELLISES, *(-states for states in reader.TRELLISES)]),
    st.integers(-640, 640),
    st.lists(st.integers(-63, 63), max_size=4),
)
def test_a_grid_gives_the_values_that_its_codes_say(kind, codes, states, step, shifts):
    multiples = multiples_of(codes, states)
    found = fast(file_of({"w": Coded(codes.shape, kind, "grid", (states, step, *shifts), multiples, states)}, {}))["w"]
    largest, wanted = float(np.finfo(kind).max), []
    for multiple in multiples.tolist():
        shift = shifts[min(abs(multiple), len(shifts)) - 1] if multiple and shifts else 0
        value = (64 * abs(multiple) - shift) / 64 * 2 ** (step / 16)
        wanted.append(min(value, largest) * (1 if multiple > 0 else -1))
    assert found.dtype == kind
    assert found.shape == codes.shape
    assert found.ravel() == pytest.approx(np.array(wanted), rel=1e-3 if kind == "float16" else 1e-6, abs=6e-8)


@settings(QUICK, max_examples=15)
@given(st.lists(st.integers(-(1 << 39) + 1, (1 << 39) - 1), max_size=30), st.sampled_from([0, 8, -8]))
def test_codes_of_any_size_come_back_by_plain_and_by_compiled_loops(codes, states):
    writer, multiples = Writer(), multiples_of(np.array(codes, np.int64), states)
    writer.write_codes((len(codes),), multiples, states)
    data = np.frombuffer(writer.finish(), np.uint8)
    for each in (None, loops()):
        assert reader.Stream(data, each).codes((len(codes),), len(codes), states).tolist() == multiples.tolist()


def test_numbers_that_are_not_of_the_trellis_are_refused():
    with pytest.raises(ValueError, match="not of the quantizer"):
        Writer().write_codes((2,), np.array([1, 2]), 8)


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "int64", "int32", "int16", "uint16"])
def test_numbers_of_the_other_byte_order_keep_their_values(kind):
    array = np.arange(-3, 50).astype(kind)
    found = fast(file_of({"w": exactly(array.astype(array.dtype.newbyteorder(">")))}, {}))["w"]
    assert same_bits(found, array)


READ = """
import sys
from laconic.pack import reader
from laconic.pack.loops import loops
arrays = reader.contents(sys.argv[1], loops=loops())[1]
sys.stdout.write(repr([(name, array.dtype.name, array.shape, array.tobytes()) for name, array in arrays.items()]))
"""


def test_other_processes_and_thread_counts_read_the_same_bits(tmp_path):
    draw = np.random.default_rng(0)
    codes = multiples_of(np.round(draw.laplace(size=600, scale=3)).astype(np.int64), 8)
    tensors = {"grid": Coded((20, 30), "float32", "grid", (8, -40, 7, 3, 0), codes, 8), "bytes": exactly(draw.normal(size=50))}
    path = tmp_path / "network.lac"
    path.write_bytes(file_of(tensors, {}))
    said = []
    for threads in ("1", "2"):
        environment = os.environ | {f"{name}_NUM_THREADS": threads for name in ("OMP", "NUMBA", "OPENBLAS", "MKL")}
        run = subprocess.run([sys.executable, "-c", READ, path], env=environment, capture_output=True, text=True, check=True)
        said.append(run.stdout)
    here = [(name, array.dtype.name, array.shape, array.tobytes()) for name, array in reader.read(path).items()]
    assert said == [repr(here)] * 2
