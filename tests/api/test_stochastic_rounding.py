"""Stochastic rounding is right in the mean and random in every way, and an average in fewer bits still forgets."""

import itertools

import numpy as np
import pytest

from fewer_bits import BLOCK, Stored
from rmsprop import reference
from rmsprop._optimizer.storage import in_full

N = 1 << 18
KEY = {"seed": 1, "step": 2, "parameter": 3}
OPERANDS = ("param", "square_avg", "grad_avg", "momentum_buffer")


def random_bits(operand="square_avg", first=0, size=N, **changes):
    key = reference.random_key(*(KEY | changes).values())
    return reference.random_bits(key, operand, np.arange(first, first + size, dtype=np.uint64))


def assert_uncorrelated(a, b):
    """Within five standard deviations, which one test in a million exceeds by chance; these seeds are fixed."""
    correlation = np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(a.size)


@pytest.mark.parametrize("operand", OPERANDS)
def test_random_bits_are_uniform(operand):
    bits = random_bits(operand)
    assert bits.max() < 1 << 16
    counts = np.bincount(bits, minlength=1 << 16)
    expected = N / (1 << 16)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - 65535) < 5 * np.sqrt(2 * 65535)
    for bit in range(16):
        share = (bits >> bit & 1).mean()
        assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(N)


@pytest.mark.parametrize("operand", OPERANDS)
@pytest.mark.parametrize("distance", [1, 2, 3, 4, 7, 8, 16, 31, 64, 255, 256, 257, 512, 4096, 65536])
def test_random_bits_of_neighbours_are_uncorrelated(operand, distance):
    bits = random_bits(operand)
    assert_uncorrelated(bits[:-distance], bits[distance:])
    for bit in (0, 7, 15):
        one = bits >> bit & 1
        assert_uncorrelated(one[:-distance], one[distance:])


@pytest.mark.parametrize("name", ["seed", "step", "parameter"])
@pytest.mark.parametrize("other", [0, 4, 5, 1 << 20, 1 << 32, (1 << 53) - 1])
def test_random_bits_of_other_seeds_steps_and_parameters_are_uncorrelated(name, other):
    for operand in OPERANDS:
        ours, theirs = random_bits(operand), random_bits(operand, **{name: other})
        assert_uncorrelated(ours, theirs)
        assert_uncorrelated(ours[:-1], theirs[1:])


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(OPERANDS, 2)))
def test_random_bits_of_operands_are_uncorrelated(a, b):
    assert_uncorrelated(random_bits(a), random_bits(b))
    assert_uncorrelated(random_bits(a)[1:], random_bits(b)[:-1])


def test_random_bits_go_on_beyond_32_bits_of_index():
    around = random_bits(first=(1 << 32) - N // 2)
    assert_uncorrelated(around, random_bits())
    assert_uncorrelated(around[N // 2 :], around[: N // 2])
    assert np.array_equal(around[N // 2 :], random_bits(first=1 << 32, size=N // 2))


# ---- Rounding --------------------------------------------------------------------------------------------------------


def rounded(numbers, form, random):
    if form == "bfloat16":
        return reference.decode_bfloat16(reference.encode_bfloat16(numbers, random))
    codes, scales = reference.encode_8bit(numbers, random, form == "signed8")
    return reference.decode_8bit(codes, scales, form == "signed8")


FORMS = {"bfloat16": "square_avg", "unsigned8": "square_avg", "signed8": "momentum_buffer"}
STEPS = {"bfloat16": 2.0**-7, "unsigned8": 2.0**-3, "signed8": 2.0**-3}  # one unit in the last place of 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [1.0, 1.0001, 1.01, 1.06, 1.3, 1.49999, 1.97, 0.7, 1e-3])
def test_rounding_is_right_in_the_mean(form, value):
    numbers = np.full(N, value, np.float32)
    mean = rounded(numbers, form, random_bits(FORMS[form])).astype(np.float64).mean()
    largest_error = 5 * 0.5 * STEPS[form] / np.sqrt(N) + 2.0**-16 * STEPS[form]
    assert abs(mean / float(np.float32(value)) - 1) < largest_error


@pytest.mark.parametrize("form", FORMS)
def test_what_a_format_can_store_is_never_changed(form):
    numbers = rounded(np.linspace(1, 2, 1000, dtype=np.float32), form, np.zeros(1000, np.uint32))
    for random in (0, 1, 0x7FFF, 0xFFFF):
        assert np.array_equal(rounded(numbers, form, np.full(1000, random, np.uint32)), numbers)


@pytest.mark.parametrize("form", FORMS)
def test_rounding_goes_to_one_of_the_two_neighbours(form):
    numbers = np.random.default_rng(0).uniform(1, 1.999, N).astype(np.float32)
    results = rounded(numbers, form, random_bits(FORMS[form]))
    assert (abs(results - numbers) < STEPS[form]).all()


def test_a_small_momentum_stays_right_in_the_mean_and_does_not_stop_above_zero():
    """Held at the smallest code it would go on to move its parameter for ever."""
    numbers = np.full(N, 3e-6, np.float32)
    numbers[::BLOCK] = 1.0  # the largest of each block
    results = rounded(numbers, "signed8", random_bits("momentum_buffer"))[numbers < 1]
    smallest = 1.125 * 2.0**-14
    assert set(np.unique(results)) == {0.0, np.float32(smallest)}
    share = 3e-6 / smallest
    assert abs((results > 0).mean() - share) < 5 * np.sqrt(share / results.size) + 2.0**-16


# ---- Blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("magnitude", [1e-44, 1e-38, 1e-30, 1e-10, 1.0, 1e10, 1e38, 3.4e38])
def test_numbers_of_a_block_are_stored_within_a_unit_in_the_last_place(magnitude):
    numbers = (np.random.default_rng(1).uniform(0.25, 1, 4 * BLOCK) * magnitude).astype(np.float32)
    results = rounded(numbers, "unsigned8", random_bits(size=4 * BLOCK))
    smallest = 1.125 * 2.0**-126
    is_in_range = (numbers >= smallest) & (results < np.inf)
    error = abs(results[is_in_range].astype(np.float64) / numbers[is_in_range] - 1)
    assert error.max(initial=0) <= 2.0**-3
    assert (results[(numbers > 0) & (numbers < smallest)] == np.float32(smallest)).all()


def test_what_is_above_zero_never_becomes_zero():
    numbers = np.full(BLOCK, 1e-30, np.float32)
    numbers[0], numbers[1], numbers[2] = 1e30, 0.0, 1e-45
    for random in (0, 0xFFFF):
        results = rounded(numbers, "unsigned8", np.full(BLOCK, random, np.uint32))
        assert (results[numbers > 0] > 0).all()
        assert results[1] == 0
        assert (results[3:] == results[3]).all()


@pytest.mark.parametrize("spoiler", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("form", ["unsigned8", "signed8"])
def test_neighbours_of_what_is_not_finite_keep_their_values(form, spoiler):
    numbers = np.random.default_rng(2).uniform(1, 2, BLOCK).astype(np.float32)
    random = random_bits(FORMS[form], size=BLOCK)
    alone = rounded(numbers, form, random)
    numbers[100] = spoiler
    results = rounded(numbers, form, random)
    assert not np.isfinite(results[100])
    assert np.isnan(results[100]) == (form == "signed8")
    assert np.array_equal(np.delete(results, 100), np.delete(alone, 100))


def test_a_block_of_zeros_is_one_of_zeros():
    for form in ("unsigned8", "signed8"):
        assert not rounded(np.zeros(BLOCK, np.float32), form, random_bits(size=BLOCK)).any()


# ---- Forgetting ------------------------------------------------------------------------------------------------------


def step_after_a_fall(state_dtype, alpha, size=8 * BLOCK):
    """Return the mean and the spread of the step after gradients have fallen to a tenth, over that of float32.

    Gradients are 1 until the average has settled, then 0.1 for as long. One element of each block stays at 1.
    """
    settled = round(10 / (1 - alpha))
    grads = np.full(size, 0.1, np.float32)
    grads[::BLOCK] = 1.0
    stored = Stored("rmsprop", state_dtype, np.zeros(size, np.float32))
    stored.state["square_avg"][...] = 1 if state_dtype == "bfloat16" else 240  # which is 1 with a scale of 127
    if state_dtype == "8bit":
        stored.state["square_avg_scale"][...] = 127
    exact = np.float64(1.0)
    for _ in range(settled):
        exact = alpha * exact + (1 - alpha) * 0.01
        stored.step(grads, alpha=alpha, lr=0.0)
    average = np.delete(in_full(stored.state, "square_avg"), np.s_[::BLOCK]).astype(np.float64)
    steps = np.sqrt(exact / average)
    return steps.mean(), steps.std()


@pytest.mark.parametrize("alpha", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
def test_an_average_in_fewer_bits_still_forgets(state_dtype, alpha):
    mean, spread = step_after_a_fall(state_dtype, alpha)
    assert abs(mean - 1) < 0.05
    assert spread < (0.03 if state_dtype == "bfloat16" else 0.15)


def test_an_average_rounded_to_nearest_does_not_forget():
    """What stochastic rounding is there for: `alpha * v` rounds back to `v`."""
    average = np.ones(1, np.float32)
    for _ in range(10_000):
        average = average * np.float32(0.999) + np.float32(0.001) * np.float32(0.01)
        average = reference.decode_bfloat16(reference.encode_bfloat16(average))
    assert np.sqrt(0.01 / average[0]) < 0.2
