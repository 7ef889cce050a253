"""Numbers that are not ordinary, and hosts with floating-point habits of their own, through both APIs."""

import ctypes
import ctypes.util
import math
import platform
import threading
from contextlib import contextmanager

import numpy as np
import pytest

import rmsprop
from bits import assert_same_bits
from rmsprop import reference

try:
    import torch

    import rmsprop.torch
except ImportError:
    torch = None

SIZE = 150_000  # enough for two threads
needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
APIS = pytest.mark.parametrize("api", ["numpy", pytest.param("torch", marks=needs_torch)])
RULES = {
    "rmsprop": ("RMSprop", reference.rmsprop_, {"centered": True, "momentum": 0.9, "weight_decay": 0.1}),
    "adagrad": ("Adagrad", reference.adagrad_, {"weight_decay": 0.1}),
}
BOTH = pytest.mark.parametrize("rule", RULES)
STATE = {"rmsprop": ("square_avg", "grad_avg", "momentum_buffer"), "adagrad": ("sum",)}


class Problem:
    """One parameter that takes a step, and what the reference makes of it."""

    def __init__(self, rule, param, grad, **options):
        self.name, reference_rule, defaults = RULES[rule]
        self.options = {"lr": 0.1, "eps": 1e-8, **defaults, **options}
        self.param, self.grad = param, grad
        self.expected = {"param": param.copy(), **{name: np.zeros_like(param) for name in STATE[rule]}}
        reference_rule(
            self.expected["param"],
            grad,
            *(self.expected[name] for name in STATE[rule][:1]),
            **{name: self.expected[name] for name in STATE[rule][1:]},
            **self.options,
        )

    def optimizer(self, api, **more):
        """Return an optimizer that is ready, and a function that takes the step."""
        if api == "numpy":
            optimizer = getattr(rmsprop, self.name)([self.param], num_threads=2, **self.options, **more)
            return optimizer, lambda: optimizer.step([self.grad])
        tensor = torch.from_numpy(self.param).requires_grad_()
        tensor.grad = torch.from_numpy(self.grad)
        options = {"eps_in_sqrt": True, **self.options}
        if self.name == "RMSprop":
            options = {"alpha": 0.9, **options}
        optimizer = getattr(rmsprop.torch, self.name)([tensor], num_threads=2, **options, **more)
        return optimizer, optimizer.step

    def state(self, optimizer):
        (entry,) = optimizer.state.values()
        return {name: np.asarray(value) for name, value in entry.items() if name != "step"}

    def assert_same_bits(self, optimizer):
        assert_same_bits(self.param, self.expected["param"])
        state = self.state(optimizer)
        assert {"param", *state} == self.expected.keys()
        for name, array in state.items():
            assert_same_bits(array, self.expected[name])


def ordinary(seed, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(SIZE).astype(dtype)


def subnormal(seed, dtype=np.float32):
    """Return numbers half of which are below the least normal one, and some whose squares are."""
    tiny = float(np.finfo(dtype).tiny)
    numbers = np.random.default_rng(seed).uniform(-2, 2, SIZE)
    numbers[::3] *= math.sqrt(tiny)
    numbers[1::3] *= tiny
    numbers[2::3] *= tiny
    return numbers.astype(dtype)


def count_subnormal(array):
    return np.count_nonzero((array != 0) & (np.abs(array) < np.finfo(array.dtype).tiny))


# ---- The host's environment ------------------------------------------------------------------------------------------

LIBM = ctypes.CDLL(ctypes.util.find_library("m")) if platform.system() == "Linux" else None
ROUNDING = {"downward": 0x400, "upward": 0x800, "towards zero": 0xC00}  # of x86
needs_rounding_modes = pytest.mark.skipif(
    LIBM is None or platform.machine() != "x86_64", reason="the numbers of the rounding modes are those of x86-64 Linux"
)


@contextmanager
def rounding(mode):
    assert LIBM.fesetround(mode) == 0
    try:
        yield
        found = LIBM.fegetround()
    finally:
        LIBM.fesetround(0)
    assert found == mode, "the host's rounding mode was changed"


@needs_rounding_modes
@APIS
@BOTH
@pytest.mark.parametrize("mode", ROUNDING)
def test_a_host_that_rounds_in_another_way_gets_the_same_bits_and_keeps_its_way(api, rule, mode):
    problem = Problem(rule, ordinary(0), ordinary(1))
    optimizer, take_step = problem.optimizer(api)
    with rounding(ROUNDING[mode]):
        take_step()
    problem.assert_same_bits(optimizer)


@contextmanager
def flushing():
    """Have this thread take subnormal numbers for zero."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals to zero")
    try:
        assert flushes(), "set_flush_denormal had no effect"
        yield
        still = flushes()
    finally:
        torch.set_flush_denormal(False)
    assert still, "the host's flushing of subnormals was switched off"


def flushes():
    return (torch.full((4,), 2.0**-126) * 0.5 == 0).all().item()


@needs_torch
@APIS
@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_host_that_flushes_subnormals_gets_the_same_bits_and_goes_on_flushing(api, rule, dtype):
    problem = Problem(rule, subnormal(0, dtype), subnormal(1, dtype), lr=0.5, eps=1.0)
    optimizer, take_step = problem.optimizer(api)
    with flushing():
        take_step()
    problem.assert_same_bits(optimizer)


@needs_torch
@APIS
def test_a_host_that_does_not_flush_subnormals_is_not_made_to_by_import_or_step(api):
    problem = Problem("rmsprop", subnormal(0), subnormal(1))
    problem.optimizer(api)[1]()
    assert not flushes()
    found = []
    thread = threading.Thread(target=lambda: found.append(flushes()))
    thread.start()
    thread.join()
    assert found == [False]


# ---- Numbers ---------------------------------------------------------------------------------------------------------


@APIS
@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_subnormal_numbers_have_the_bits_of_the_reference(api, rule, dtype):
    problem = Problem(rule, subnormal(0, dtype), subnormal(1, dtype), lr=0.5, eps=1.0)
    assert all(count_subnormal(array) > SIZE // 10 for array in problem.expected.values())
    optimizer, take_step = problem.optimizer(api)
    take_step()
    problem.assert_same_bits(optimizer)


@APIS
@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 12_345, SIZE - 1])
def test_a_gradient_that_is_not_finite_changes_the_class_of_its_own_element_only(api, rule, bad, place):
    grad = ordinary(1)
    clean = Problem(rule, ordinary(0), grad.copy())
    grad[place] = bad
    with np.errstate(invalid="ignore"):
        problem = Problem(rule, ordinary(0), grad)
    optimizer, take_step = problem.optimizer(api)
    take_step()
    problem.assert_same_bits(optimizer)
    for name, array in {"param": problem.param, **problem.state(optimizer)}.items():
        assert not np.isfinite(array[place])
        array[place] = clean.expected[name][place]
        assert_same_bits(array, clean.expected[name])


@APIS
def test_a_variance_that_rounding_made_negative_counts_as_zero(api):
    """With one gradient over and over, square_avg - grad_avg**2 is zero but for rounding, on either side of it."""
    grad = ordinary(1)
    problem = Problem("rmsprop", ordinary(0), grad, weight_decay=0.0)
    optimizer, take_step = problem.optimizer(api)
    is_negative = False
    expected = problem.expected
    take_step()
    for _ in range(150):
        take_step()
        reference.rmsprop_(
            expected["param"],
            grad,
            expected["square_avg"],
            grad_avg=expected["grad_avg"],
            momentum_buffer=expected["momentum_buffer"],
            **problem.options,
        )
        is_negative |= (expected["square_avg"] - expected["grad_avg"] ** 2 < 0).any()
    assert is_negative, "no variance was negative, so nothing was tested"
    assert np.isfinite(problem.param).all()
    problem.assert_same_bits(optimizer)


@APIS
@BOTH
def test_another_number_of_threads_at_each_step_changes_no_bit(api, rule):
    problems = [Problem(rule, ordinary(0), ordinary(1)) for _ in range(2)]
    (one, step_one), (other, step_other) = (problem.optimizer(api) for problem in problems)
    one.num_threads = 1
    before = rmsprop.get_num_threads()
    try:
        for count in (1, 2, 3, 7, 1, 4, None):
            other.num_threads = count
            rmsprop.set_num_threads(2 if count is None else 1)
            step_one()
            step_other()
    finally:
        rmsprop.set_num_threads(before)
    assert_same_bits(problems[0].param, problems[1].param)
    assert problems[0].state(one)
    for name, array in problems[0].state(one).items():
        assert_same_bits(array, problems[1].state(other)[name])
