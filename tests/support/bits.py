"""How the tests compare floating-point numbers: bit by bit."""

import numpy as np


def assert_same_bits(actual, expected):
    """Assert that two arrays have one dtype, one shape, and the same bits at each index, wherever they lie in memory.

    Any NaN equals any NaN, and -0.0 differs from 0.0. Complex numbers are compared part by part.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    actual_parts, expected_parts = real_numbers(actual), real_numbers(expected)
    both_nan = np.isnan(actual_parts) & np.isnan(expected_parts)
    differing = np.flatnonzero((bits(actual_parts) != bits(expected_parts)) & ~both_nan)
    if differing.size:
        first = differing[0]
        parts_per_element = actual_parts.size // actual.size
        index = tuple(map(int, np.unravel_index(first // parts_per_element, actual.shape)))
        raise AssertionError(
            f"{differing.size} of {actual_parts.size} numbers differ, the first at index {index}: "
            f"got {described(actual_parts, first)}, expected {described(expected_parts, first)}"
        )


def real_numbers(array):
    """Return the numbers of an array in the order of its indices, with a complex one as two: a dense copy."""
    return np.array(array, order="C").reshape(-1).view(array.real.dtype)


def bits(numbers):
    """Return real numbers as the integers that have the same bits."""
    return numbers.view(f"u{numbers.itemsize}")


def described(numbers, index):
    return f"{numbers[index]!s} (0x{bits(numbers)[index]:0{2 * numbers.itemsize}x})"
