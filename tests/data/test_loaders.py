import pytest

from laconic.data import load
from laconic.errors import LaconicError

OWN = """
import numpy as np
from laconic.data import Dataset, Split

def good(size: int = 2):
    return Dataset(Split(np.zeros((3, size)), np.arange(3)), name="own")

def bad():
    return Dataset(Split(np.full((3, 2), np.nan), np.arange(3)))

def wrong():
    return [1, 2]
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path}/own.py"


def test_the_users_function_is_called(own):
    assert load(f"{own}:good").name == "own"
    assert load(f"{own}:good?size=5").test.inputs.shape == (3, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong", "must return a laconic.data.Dataset; it returned a list"),
        ("bad", "6 numbers of the test inputs are NaN"),
        ("absent", "unknown data set in .*own.py: 'absent'"),
    ],
)
def test_what_the_users_function_does_wrong_is_told(own, name, message):
    with pytest.raises(LaconicError, match=message):
        load(f"{own}:{name}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("minst", "unknown data set 'minst'; did you mean 'mnist'.*FILE.npz"),
        ("mnist?size=3", "mnist has no options; got size=3"),
        ("digits?", None),
    ],
)
def test_a_name_or_option_that_there_is_not_is_told(spec, message):
    if message is None:
        assert load(spec).name == "digits"
        return
    with pytest.raises(LaconicError, match=message):
        load(spec)
