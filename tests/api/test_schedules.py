"""Schedules: PyTorch's values, no state, and bad arguments refused by name."""

import copy
import math
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rmsprop
from bits import assert_same_bits
from rmsprop import schedules
from rmsprop.schedules import constant, cosine, exponential, linear_warmup, one_cycle, sequential, step_decay

EVERY_KIND = [
    constant(0.1),
    step_decay(0.1, step_size=7, gamma=0.3),
    exponential(0.1, gamma=0.97),
    cosine(0.1, T_max=50, eta_min=0.01),
    linear_warmup(0.1, total_iters=20, start_factor=0.25),
    one_cycle(0.1, total_steps=60, pct_start=0.4, div_factor=10.0, final_div_factor=100.0),
    sequential([linear_warmup(0.1, 5), step_decay(0.1, 10), cosine(0.05, 30)], milestones=[5, 40]),
]
every_kind = pytest.mark.parametrize("schedule", EVERY_KIND, ids=lambda schedule: type(schedule).__name__)


# ---- The values ------------------------------------------------------------------------------------------------------


def test_constant_stays():
    assert [constant(0.1)(step) for step in (0, 1, 10**12)] == [0.1, 0.1, 0.1]


def test_step_decay_changes_exactly_at_multiples_of_step_size():
    schedule = step_decay(1.0, step_size=3, gamma=0.5)
    assert [schedule(step) for step in range(8)] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]


@given(lr=st.floats(0, 1e3), gamma=st.floats(0.5, 1.1), step=st.integers(0, 5000))
def test_exponential_is_the_power(lr, gamma, step):
    # Each of fewer than 2 * log2(step) roundings is at most doubled by every later squaring: together less than `step`.
    exact = Fraction(lr) * Fraction(gamma) ** step
    assert schedules.exponential(lr, gamma)(step) == pytest.approx(float(exact), rel=5000 * 2**-52, abs=1e-300)


@pytest.mark.parametrize("start", [0.7, 0.1, 1 / 3, 0.0])
@pytest.mark.parametrize("end", [0.0, 0.1, 1e-9])
def test_cosine_is_exact_at_both_ends_and_stays(start, end):
    schedule = cosine(start, T_max=77, eta_min=end)
    assert schedule(0) == start
    assert [schedule(step) for step in (77, 78, 10**9)] == [end] * 3


@given(st.floats(0, 1))
def test_half_cosine_is_the_library_s_cosine(fraction):
    # cos(y)**2 keeps its digits where 1 + cos(2 * y) cancels. The argument's own rounding is what is left near 1.
    wanted = math.cos(math.pi / 2 * fraction) ** 2
    assert schedules.half_cosine(fraction) == pytest.approx(wanted, rel=1e-15, abs=1e-16)


@given(st.integers(0, 199))
def test_cosine_never_rises(step):
    schedule = cosine(0.3, T_max=200, eta_min=1e-4)
    assert schedule(step + 1) < schedule(step)


@pytest.mark.parametrize("start_factor", [0.0, 1 / 3, 0.1, 1.0])
def test_linear_warmup_reaches_lr_exactly_and_stays(start_factor):
    schedule = linear_warmup(0.3, total_iters=7, start_factor=start_factor)
    assert schedule(0) == 0.3 * start_factor
    assert [schedule(step) for step in (7, 8, 10**9)] == [0.3] * 3
    assert linear_warmup(0.7, total_iters=9, start_factor=0.1)(9) == 0.7  # where the formula misses it by a rounding


def test_one_cycle_begins_peaks_ends_and_stays_where_it_says():
    schedule = one_cycle(0.5, total_steps=100, pct_start=0.3, div_factor=10.0, final_div_factor=1000.0)
    rates = [schedule(step) for step in range(100)]
    assert rates[0] == 0.05
    assert rates[29] == max(rates) == 0.5
    assert rates[99] == schedule(100) == schedule(10**9) == 0.00005
    assert rates[:30] == sorted(rates[:30])
    assert rates[29:] == sorted(rates[29:], reverse=True)


@pytest.mark.parametrize("pct_start", [0.0, 1e-3, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("total_steps", [1, 2, 3, 10])
def test_one_cycle_of_any_shape_stays_between_its_ends(pct_start, total_steps):
    schedule = one_cycle(1.0, total_steps=total_steps, pct_start=pct_start)
    rates = [schedule(step) for step in range(total_steps + 3)]
    assert all(1 / 25 / 1e4 <= rate <= 1.0 for rate in rates)
    assert rates[total_steps - 1] == rates[-1] == (1.0 if pct_start == 1.0 else 1 / 25 / 1e4)


def test_sequential_gives_each_schedule_its_own_count():
    seen = []

    def named(name):
        return lambda step: seen.append((name, step)) or 0.1

    schedule = sequential([named("a"), named("b"), named("c")], milestones=[2, 5])
    for step in range(8):
        schedule(step)
    assert seen == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2), ("c", 0), ("c", 1), ("c", 2)]


def test_sequential_nests():
    inner = sequential([constant(1.0), constant(2.0)], milestones=[2])
    schedule = sequential([constant(0.5), inner, constant(3.0)], milestones=[1, 5])
    assert [schedule(step) for step in range(7)] == [0.5, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]


def test_sequential_of_one_schedule_is_that_schedule():
    assert [sequential([exponential(1.0, 0.5)], milestones=[])(step) for step in range(3)] == [1.0, 0.5, 0.25]


# ---- The same as PyTorch ---------------------------------------------------------------------------------------------

PYTORCH = {
    "ConstantLR": (constant(0.1), lambda to, opt: to.ConstantLR(opt, factor=1.0)),
    "StepLR": (step_decay(0.1, 30), lambda to, opt: to.StepLR(opt, 30)),
    "StepLR, gamma 0.9": (step_decay(0.1, 7, 0.9), lambda to, opt: to.StepLR(opt, 7, 0.9)),
    "ExponentialLR": (exponential(0.1, 0.99), lambda to, opt: to.ExponentialLR(opt, 0.99)),
    "CosineAnnealingLR": (cosine(0.1, 1000), lambda to, opt: to.CosineAnnealingLR(opt, 1000)),
    "CosineAnnealingLR, eta_min": (cosine(0.1, 999, 1e-3), lambda to, opt: to.CosineAnnealingLR(opt, 999, 1e-3)),
    "LinearLR": (linear_warmup(0.1, 5), lambda to, opt: to.LinearLR(opt)),
    "LinearLR, 300 steps": (linear_warmup(0.1, 300, 0.01), lambda to, opt: to.LinearLR(opt, 0.01, total_iters=300)),
    "OneCycleLR": (one_cycle(0.1, 1000), lambda to, opt: to.OneCycleLR(opt, 0.1, 1000, cycle_momentum=False)),
    "OneCycleLR, odd shape": (
        one_cycle(0.1, 997, pct_start=0.123, div_factor=3.0, final_div_factor=7.0),
        lambda to, opt: to.OneCycleLR(
            opt, 0.1, 997, pct_start=0.123, div_factor=3.0, final_div_factor=7.0, cycle_momentum=False
        ),
    ),
    "OneCycleLR, no rise": (
        one_cycle(0.1, 1000, pct_start=0.0),
        lambda to, opt: to.OneCycleLR(opt, 0.1, 1000, pct_start=0.0, cycle_momentum=False),
    ),
    "SequentialLR": (
        sequential([linear_warmup(0.1, 50), cosine(0.1, 950)], milestones=[50]),
        lambda to, opt: to.SequentialLR(opt, [to.LinearLR(opt, total_iters=50), to.CosineAnnealingLR(opt, 950)], [50]),
    ),
    "SequentialLR of three": (
        sequential([linear_warmup(0.1, 9), exponential(0.1, 0.99), step_decay(0.1, 100)], milestones=[20, 400]),
        lambda to, opt: to.SequentialLR(
            opt, [to.LinearLR(opt, total_iters=9), to.ExponentialLR(opt, 0.99), to.StepLR(opt, 100)], [20, 400]
        ),
    ),
}


@pytest.mark.parametrize("name", PYTORCH)
def test_values_are_those_of_pytorch_over_the_whole_run(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, so there is nothing to compare with")
    schedule, create = PYTORCH[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = create(torch.optim.lr_scheduler, optimizer)
    # After the end of a cosine PyTorch's goes up again, and after that of a cycle it raises an error.
    last_step = getattr(schedule, "T_max", getattr(schedule, "total_steps", 1001) - 1)
    expected = []
    for _ in range(last_step + 1):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    # 1e-12 of each value; and of the first one where PyTorch's 1 + cos(x) has cancelled, near the end of a cosine.
    assert [schedule(step) for step in range(last_step + 1)] == pytest.approx(expected, rel=1e-12, abs=1e-13)


# ---- In an optimizer -------------------------------------------------------------------------------------------------


@every_kind
def test_an_optimizer_takes_a_schedule_and_gives_it_0_first(schedule):
    scheduled, by_hand = np.ones(3), np.ones(3)
    with_schedule = rmsprop.RMSprop(scheduled, lr=schedule, momentum=0.9)
    without = rmsprop.RMSprop(by_hand, momentum=0.9)
    for step in range(70):
        without.lr = schedule(step)
        without.step(np.cos(by_hand))
        with_schedule.step(np.cos(scheduled))
    assert_same_bits(scheduled, by_hand)


@every_kind
def test_a_resumed_run_gives_the_bits_of_the_uninterrupted_one(schedule):
    straight, resumed = np.ones(3), np.ones(3)
    for weights, pause in ((straight, None), (resumed, 23)):
        optimizer = rmsprop.Adagrad(weights, lr=schedule)
        for step in range(70):
            if step == pause:
                accumulator = optimizer.state[0]["sum"].copy()
                optimizer = rmsprop.Adagrad(weights, lr=pickle.loads(pickle.dumps(schedule)))
                optimizer.state[0]["sum"], optimizer.state[0]["step"] = accumulator, step
            optimizer.step(np.cos(weights))
    assert_same_bits(resumed, straight)


# ---- As objects ------------------------------------------------------------------------------------------------------


@every_kind
def test_schedules_can_be_pickled_copied_compared_and_hashed(schedule):
    for copied in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule), copy.copy(schedule)):
        assert copied == schedule
        assert hash(copied) == hash(schedule)
        assert [copied(step) for step in range(100)] == [schedule(step) for step in range(100)]
    assert schedule != constant(12.0)


@every_kind
def test_the_repr_can_be_pasted_back(schedule):
    assert eval(repr(schedule)) == schedule


@every_kind
def test_schedules_are_read_only_and_have_no_state(schedule):
    before = repr(schedule)
    assert [schedule(step) for step in (9, 0, 9)] == [schedule(9), schedule(0), schedule(9)]
    assert repr(schedule) == before
    with pytest.raises(AttributeError):
        schedule.lr = 1.0


@every_kind
def test_values_are_finite_floats_at_any_step(schedule):
    for step in (0, 1, np.int64(5), 2**31, 2**63):
        assert type(schedule(step)) is float
        assert math.isfinite(schedule(step))


def test_milestones_cannot_be_changed_from_outside():
    milestones = [3]
    schedule = sequential([constant(1.0), constant(2.0)], milestones)
    milestones[0] = 100
    assert schedule(3) == 2.0


# ---- Bad input -------------------------------------------------------------------------------------------------------

VALID = {
    constant: {"lr": 0.1},
    step_decay: {"lr": 0.1, "step_size": 3, "gamma": 0.5},
    exponential: {"lr": 0.1, "gamma": 0.5},
    cosine: {"lr": 0.1, "T_max": 3, "eta_min": 0.01},
    linear_warmup: {"lr": 0.1, "total_iters": 3, "start_factor": 0.5},
    one_cycle: {"max_lr": 0.1, "total_steps": 3, "pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4},
}
COUNTS = {"step_size", "T_max", "total_iters", "total_steps"}
ARGUMENTS = [(kind, name) for kind, arguments in VALID.items() for name in arguments]
NUMBERS = [(kind, name) for kind, name in ARGUMENTS if name not in COUNTS]
WHOLE_NUMBERS = [(kind, name) for kind, name in ARGUMENTS if name in COUNTS]


def create(kind, name, value):
    return kind(**{**VALID[kind], name: value})


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, -1e-300, 10**400])
def test_nan_infinity_and_negative_numbers_are_refused_by_name(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name}: got .*, wanted a .*number"):
        create(kind, name, value)


@pytest.mark.parametrize(("kind", "name"), ARGUMENTS)
@pytest.mark.parametrize("value", ["0.1", None, True, np.True_, 1j, [0.1], np.zeros(1)])
def test_what_is_no_number_is_refused_by_name_and_type(kind, name, value):
    with pytest.raises(TypeError, match=rf"^{name}: got {re.escape(type(value).__name__)}, wanted an? (number|int)$"):
        create(kind, name, value)


@pytest.mark.parametrize(("kind", "name"), WHOLE_NUMBERS)
def test_numbers_of_steps_are_whole_and_at_least_1(kind, name):
    with pytest.raises(TypeError, match=f"^{name}: got float, wanted an int$"):
        create(kind, name, 3.0)
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"^{name}: got {value}, wanted an int >= 1$"):
            create(kind, name, value)
    assert getattr(create(kind, name, np.int32(3)), name) == 3


@pytest.mark.parametrize(("kind", "name"), [(linear_warmup, "start_factor"), (one_cycle, "pct_start")])
def test_shares_are_at_most_1(kind, name):
    with pytest.raises(ValueError, match=rf"^{name}: got 1\.5, wanted a number from 0 to 1$"):
        create(kind, name, 1.5)


@pytest.mark.parametrize("name", ["div_factor", "final_div_factor"])
def test_nothing_is_divided_by_0(name):
    with pytest.raises(ValueError, match=rf"^{name}: got 0\.0, wanted a finite number > 0$"):
        create(one_cycle, name, 0.0)


@every_kind
def test_a_step_count_is_a_whole_number_from_0(schedule):
    with pytest.raises(ValueError, match=r"^step: got -1, wanted an int >= 0$"):
        schedule(-1)
    for value in (1.0, "1", None, True):
        with pytest.raises(TypeError, match=f"^step: got {type(value).__name__}, wanted an int$"):
            schedule(value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], []), ValueError, "schedules: got none, wanted at least one schedule"),
        ((constant(1.0), []), TypeError, "schedules: got constant, wanted a sequence of schedules"),
        (([0.1], []), TypeError, r"schedules\[0\]: got float, wanted a callable such as constant\(lr\)"),
        (([constant(1.0)], 3), TypeError, "milestones: got int, wanted a sequence of ints"),
        (([constant(1.0)], [3]), ValueError, "milestones: got 1 for 1 schedules, wanted 0: one for each"),
        (([constant(1.0)] * 3, [3]), ValueError, "milestones: got 1 for 3 schedules, wanted 2: one for each"),
        (([constant(1.0)] * 2, [1.5]), TypeError, r"milestones\[0\]: got float, wanted an int"),
        (([constant(1.0)] * 2, [0]), ValueError, r"milestones\[0\]: got 0, wanted an int >= 1"),
        (([constant(1.0)] * 3, [5, 5]), ValueError, r"milestones\[1\]: got 5 after 5, wanted increasing numbers"),
    ],
)
def test_sequential_says_what_does_not_fit(arguments, error, message):
    with pytest.raises(error, match=f"^{message}"):
        sequential(*arguments)
