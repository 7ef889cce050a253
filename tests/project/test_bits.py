"""The comparison that the other tests rest on can fail."""

import numpy as np
import pytest

from bits import assert_same_bits

TYPES = (np.float32, np.float64, np.complex64, np.complex128)


@pytest.mark.parametrize("dtype", TYPES)
def test_equal_values_have_the_same_bits_in_any_layout(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    sparse = np.zeros((4, 3, 8), dtype)[::-2, :, ::2]
    sparse[...] = array
    assert_same_bits(np.asfortranarray(array), array)
    assert_same_bits(sparse, array)
    assert_same_bits(array[0, 0, 0], np.array(0, dtype))
    assert_same_bits(array[:0], np.empty((0, 3, 4), dtype))


@pytest.mark.parametrize("dtype", TYPES)
def test_any_nan_equals_any_nan(dtype):
    one, other = np.full(2, np.nan, dtype), np.full(2, -np.nan, dtype)
    other.view(np.uint8)[0] ^= 1  # another payload
    assert one.tobytes() != other.tobytes()
    assert_same_bits(one, other)


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        (np.array([1.0, -0.0]), np.zeros(2), r"2 of 2 numbers differ, the first at index \(0,\): got 1.0 \(0x3ff0"),
        (np.array(-0.0), np.array(0.0), r"index \(\): got -0.0 \(0x8000000000000000\), expected 0.0 \(0x0000"),
        (np.ones(2), np.nextafter(np.ones(2), 2), "differ"),
        (np.array([np.nan]), np.array([np.inf]), "got nan .*, expected inf"),
        (np.array([[0, 1j]]), np.array([[0, complex(0, -1)]]), r"1 of 4 numbers differ, the first at index \(0, 1\)"),
        (np.array([0j]), np.array([complex(0, -0.0)]), "1 of 2 numbers differ"),
        (np.ones(2, np.float32), np.ones(2), "dtype float32, expected float64"),
        (np.ones((2, 1)), np.ones(2), r"shape \(2, 1\), expected \(2,\)"),
    ],
)
def test_a_difference_in_one_bit_is_found_and_shown(actual, expected, message):
    with pytest.raises(AssertionError, match=message):
        assert_same_bits(actual, expected)
