import numpy as np
import pytest

from laconic.numeric.packing import pack, unpack, width


def random_codes(base, count):
    return np.random.default_rng(base).integers(0, base, count)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 11, 16])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 100])
def test_packed_bits_are_the_digits_of_one_large_number(bits, count):
    codes = random_codes(2**bits, count)
    number = 0
    for code in codes:
        number = number << bits | int(code)
    size = -(-count * bits // 8)
    expected = (number << (8 * size - count * bits)).to_bytes(size, "big")
    packed = pack(codes, 2**bits)
    assert packed.dtype == np.uint8
    assert packed.tobytes() == expected
    assert unpack(packed, 2**bits, count).tolist() == codes.tolist()


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 1000])
def test_five_ternary_digits_are_a_byte(count):
    codes = random_codes(3, count)
    packed = pack(codes, 3)
    assert len(packed) == -(-count // 5)
    for start in range(0, count, 5):
        digits = [*codes[start : start + 5], 0, 0, 0, 0][:5]
        assert packed[start // 5] == int("".join(map(str, digits)), 3)
    assert unpack(packed, 3, count).tolist() == codes.tolist()


@pytest.mark.parametrize("base", range(2, 300))
def test_codes_of_any_base_come_back_and_take_no_more_than_their_bits(base):
    codes = np.concatenate([random_codes(base, 50), [base - 1, 0, base - 1]])
    packed = pack(codes, base)
    assert unpack(packed, base, len(codes)).tolist() == codes.tolist()
    assert len(packed) <= -(-len(codes) * width(base) // 8) + 1
    assert len(packed) >= len(codes) * np.log2(base) / 8


@pytest.mark.parametrize(("base", "digits"), [(3, 5), (5, 3), (6, 3)])
def test_digits_share_a_byte_where_that_is_less_than_their_bits(base, digits):
    assert len(pack(np.zeros(60, np.int64), base)) == 60 / digits < 60 * width(base) / 8


def test_the_width_is_that_of_the_largest_code():
    assert [width(base) for base in (2, 3, 4, 5, 16, 17, 256, 65536)] == [1, 2, 2, 3, 4, 5, 8, 16]
