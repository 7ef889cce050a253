"""The committed table of hashes says what the reference computes, and covers what it is there for.

The engine is held against the same table by `tests/cpp/same_bits.cpp`: here by the tests of the build, on other
machines and with other compilers by `ci/same-bits`.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

# A script that is run by its path, and so on no path of Python's.
SPEC = importlib.util.spec_from_file_location("same_bits", Path(__file__).parents[1] / "same_bits.py")
same_bits = importlib.util.module_from_spec(SPEC)
sys.modules["same_bits"] = same_bits
SPEC.loader.exec_module(same_bits)


def test_committed_table_has_the_bits_of_the_reference():
    assert same_bits.TABLE.read_text().splitlines() == same_bits.lines()


@pytest.mark.parametrize("change", ["last bit", "sign of a zero", "order", "place"])
def test_a_hash_tells_apart_what_differs_in(change):
    numbers = np.array([0.0, 1.0, 2.0], np.float32)
    other, place = numbers.copy(), 0
    if change == "last bit":
        other[1] = np.nextafter(other[1], other[2])
    elif change == "sign of a zero":
        other[0] = -0.0
    elif change == "order":
        other = other[::-1].copy()
    else:
        place = 1
    form = same_bits.FLOAT32
    words, other_words = (same_bits.encoded(array, form) for array in (numbers, other))
    assert same_bits.hashed(other_words, form, place) != same_bits.hashed(words, form, 0)


def test_a_hash_takes_every_nan_for_the_same():
    words = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF], np.uint32)
    hashes = {same_bits.hashed(words[i : i + 1], same_bits.FLOAT32, 0) for i in range(4)}
    assert len(hashes) == 1


def test_special_inputs_hold_every_edge_of_the_format_with_both_signs():
    for form in (same_bits.FLOAT32, same_bits.FLOAT64):
        words = [same_bits.inputs(form, "special", name, 0, 133) for name in same_bits.OPERANDS]
        numbers = same_bits.decoded(np.concatenate(words), form)
        info = np.finfo(form.computed)
        for edge in (0.0, info.smallest_subnormal, info.tiny, info.max, np.inf):
            assert {bool(np.signbit(x)) for x in numbers[np.abs(numbers) == edge]} == {False, True}, edge
        assert np.isnan(numbers).any()


def test_subnormal_inputs_are_half_of_them_below_the_least_normal_number():
    numbers = same_bits.inputs(same_bits.FLOAT32, "subnormal", "grad", 0, 133).view(np.float32)
    assert 20 < (np.abs(numbers) < np.finfo(np.float32).tiny).sum() < 120


def test_ordinary_inputs_make_some_variances_negative():
    """So that an engine that does not count them as zero differs from the table."""
    names = ("grad", "square_avg", "grad_avg")
    g, v, m = (same_bits.inputs(same_bits.FLOAT64, "ordinary", name, 0, 133).view(float) for name in names)
    assert (0.9 * v + 0.1 * g * g < (0.9 * m + 0.1 * g) ** 2).any()


def test_every_rule_of_the_engine_is_in_the_table_for_every_dtype():
    stepped = [case for case in same_bits.cases() if case.rule != "sum_of_squares"]
    formulas = {
        (case.dtype, case.rule, *(bool(case.options.get(name)) for name in ("centered", "momentum", "nesterov")))
        for case in stepped
    }
    assert len(formulas) == len(same_bits.DTYPES) * 7


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (1.0, 0x3F80),
        (1.0 + 2**-8, 0x3F80),  # a tie goes to the even one, down
        (1.0 + 3 * 2**-8, 0x3F82),  # and up
        (1.0 + 2**-8 + 2**-20, 0x3F81),
        (3.4e38, 0x7F80),
        (-1e-40, 0x8001),
        (np.nan, 0x7FC0),
    ],
)
def test_rounding_to_bfloat16_is_to_the_nearest(number, word):
    assert same_bits.encoded(np.array([number], np.float32), same_bits.BFLOAT16) == word
