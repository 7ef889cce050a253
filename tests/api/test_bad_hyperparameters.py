"""Hyperparameters and options out of range or of a wrong type are refused by name, and nothing changes."""

import fractions
import math
import re

import numpy as np
import pytest

import rmsprop
from bad_input import BAD_VALUES, FUNCTIONS, INTERFACES, NOT_NUMBERS, OPTIMIZERS, SHAPES, SPOILED, Subject, contents
from bits import assert_same_bits
from hyperparameter_names import FLAGS, LIMITS, NUMBERS
from rmsprop import functional
from rmsprop._core import rules

# Settings of older versions lack all of them but the first.
MAY_BE_MISSING = {"initial_accumulator_value", *rules["rmsprop"].optional}
FUNCTION = {"RMSprop": "rmsprop_", "Adagrad": "adagrad_"}
NOT_FLAGS = {
    "int": 1,
    "float": 0.0,
    "NoneType": None,
    "str": "yes",
    "numpy.int64": np.int64(1),
    "numpy.ndarray": np.array(True),
}


def bad_hyperparameters(optimizer):
    """Yield (name, value, kind of exception, message) for every hyperparameter and every kind of wrong value."""
    for name in NUMBERS[optimizer]:
        for value in BAD_VALUES:
            wanted = "a finite number >= 0"
            if name in LIMITS:
                wanted = "a finite number >= 0 or None"
            yield name, value, ValueError, f"{name}: got {value}, wanted {wanted}"
        for kind, value in NOT_NUMBERS.items():
            if name not in LIMITS or value is not None:
                yield name, value, TypeError, f"{name}: got {kind}, wanted a number"
        yield name, 10**400, ValueError, f"{name}: got {10**400}, wanted a number that a float can hold"
    for name in FLAGS[optimizer]:
        for kind, value in NOT_FLAGS.items():
            yield name, value, TypeError, f"{name}: got {kind}, wanted a bool"
    if optimizer == "RMSprop":
        yield "alpha", 1.5, ValueError, "alpha: got 1.5, wanted a number from 0 to 1"
        yield "alpha", 2, ValueError, "alpha: got 2, wanted a number from 0 to 1"


ALL_BAD_HYPERPARAMETERS = [
    pytest.param(optimizer, *case, id=f"{optimizer}-{case[0]}-{str(case[1])[:12] or type(case[1]).__name__}")
    for optimizer in OPTIMIZERS
    for case in bad_hyperparameters(optimizer)
]


@pytest.mark.parametrize(("optimizer", "name", "value", "kind", "message"), ALL_BAD_HYPERPARAMETERS)
def test_bad_hyperparameter_is_refused_wherever_it_comes_from(optimizer, name, value, kind, message, refused):
    create = getattr(rmsprop, optimizer)
    array = np.ones(3)
    with refused(kind, message, array):
        create(array, **{name: value})
    with refused(kind, f"param_groups[1]: {message}", array):
        create([{"params": [array]}, {"params": [np.ones(2)], name: value}])

    one_group = Subject(optimizer)
    one_group.set(name, value)
    with refused(kind, message, *one_group.watched()):
        one_group.step()

    two_groups = create([{"params": [np.ones(2)]}, {"params": array}])
    two_groups.param_groups[1][name] = value
    with refused(kind, f"param_groups[1]: {message}", two_groups):
        two_groups.step([np.ones(2), np.ones(3)])

    if name != "initial_accumulator_value":
        function = Subject(FUNCTION[optimizer])
        with refused(kind, message, *function.watched()):
            function.step(**{name: value})


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize("value", [*BAD_VALUES, *NOT_NUMBERS.values()], ids=str)
def test_schedule_that_returns_no_learning_rate_is_refused(interface, value, refused):
    subject = Subject(interface)
    subject.set("lr", lambda step: value)
    wanted = "finite number >= 0" if isinstance(value, float) else "number"
    with refused((TypeError, ValueError), re.compile(f"lr: got .+, wanted a {wanted}"), *subject.watched()):
        subject.step()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyError, ValueError, KeyboardInterrupt])
def test_what_a_schedule_raises_comes_out_unchanged(error, refused):
    subject = Subject("RMSprop")
    raised = error("the schedule's own words")

    def schedule(step):
        raise raised

    subject.set("lr", schedule)
    before = contents(subject.watched())
    with pytest.raises(error) as caught:
        subject.step()
    assert caught.value is raised
    assert contents(subject.watched()) == before
    subject.set("lr", 0.1)
    subject.step()  # and the optimizer is not stuck in that step
    assert subject.optimizer.state[0]["step"] == 2


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (math.nan, ValueError, "grad_scale: got nan, wanted a finite number"),
        (math.inf, ValueError, "grad_scale: got inf, wanted a finite number"),
        (-math.inf, ValueError, "grad_scale: got -inf, wanted a finite number"),
        *((value, TypeError, f"grad_scale: got {kind}, wanted a number") for kind, value in NOT_NUMBERS.items()),
    ],
    ids=str,
)
def test_bad_grad_scale_is_refused(interface, value, kind, message, refused):
    subject = Subject(interface)
    with refused(kind, message, *subject.watched()):
        subject.step(grad_scale=value)


def test_nesterov_without_momentum_is_refused(refused):
    message = "nesterov: got True with momentum 0, wanted a momentum above 0 to look ahead with"
    array = np.ones(3)
    with refused(ValueError, message, array):
        rmsprop.RMSprop(array, nesterov=True)
    with refused(ValueError, message, array):
        functional.rmsprop_(array, np.ones(3), np.ones(3), lr=0.1, nesterov=True)
    subject = Subject("RMSprop")
    subject.set("momentum", 0.0)
    subject.set("nesterov", True)
    with refused(ValueError, message, *subject.watched()):
        subject.step()


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), fractions.Fraction(1, 2), 0.5])
def test_any_real_number_will_do_as_a_hyperparameter(interface, number):
    subject, same = Subject(interface), Subject(interface)
    subject.set("weight_decay", number)
    same.set("weight_decay", 0.5)
    subject.step()
    same.step()
    for index in range(len(SHAPES)):
        assert_same_bits(subject.get_array("params", index), same.get_array("params", index))


@pytest.mark.parametrize("value", [1.0000000000000002, 1 + 1e-9])
def test_message_shows_a_number_in_full(value, refused):
    """Otherwise it says: got 1, wanted a number from 0 to 1."""
    with refused(ValueError, f"alpha: got {value!r}, wanted a number from 0 to 1"):
        rmsprop.RMSprop(np.ones(3), alpha=value)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("Skip", ValueError, "nonfinite: got 'Skip', wanted 'propagate', 'skip' or 'raise'"),
        ("", ValueError, "nonfinite: got '', wanted 'propagate', 'skip' or 'raise'"),
        (None, TypeError, "nonfinite: got NoneType, wanted a str"),
        (True, TypeError, "nonfinite: got bool, wanted a str"),
        (b"skip", TypeError, "nonfinite: got bytes, wanted a str"),
    ],
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bad_reaction_to_what_is_not_finite_is_refused(optimizer, value, kind, message, refused):
    array = np.ones(3)
    with refused(kind, message, array):
        getattr(rmsprop, optimizer)(array, nonfinite=value)
    subject = Subject(optimizer)
    with refused(kind, message, *subject.watched()):
        subject.optimizer.nonfinite = value
        subject.step()


BAD_NUM_THREADS = [
    (0, ValueError, "num_threads: got 0, wanted a number from 1 to 1024"),
    (-1, ValueError, "num_threads: got -1, wanted a number from 1 to 1024"),
    (1025, ValueError, "num_threads: got 1025, wanted a number from 1 to 1024"),
    (2**70, ValueError, f"num_threads: got {2**70}, wanted a number from 1 to 1024"),
    (2.0, TypeError, "num_threads: got float, wanted an int or None"),
    (True, TypeError, "num_threads: got bool, wanted an int or None"),
    ("2", TypeError, "num_threads: got str, wanted an int or None"),
]


@pytest.mark.parametrize(("value", "kind", "message"), BAD_NUM_THREADS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bad_num_threads_is_refused_by_the_constructor(optimizer, value, kind, message, refused):
    array = np.ones(3)
    with refused(kind, message, array):
        getattr(rmsprop, optimizer)(array, num_threads=value)


@pytest.mark.parametrize(("value", "kind", "message"), BAD_NUM_THREADS)
@pytest.mark.parametrize("interface", INTERFACES)
def test_bad_num_threads_is_refused_by_the_next_step(interface, value, kind, message, refused):
    """Or already when it is set."""
    subject = Subject(interface)
    with refused(kind, message, *subject.watched()):
        if subject.optimizer is None:
            subject.step(num_threads=value)
        else:
            subject.optimizer.num_threads = value
            subject.step()


@pytest.mark.parametrize("interface", FUNCTIONS)
@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (0, ValueError, "step: got 0, wanted a count from 1"),
        (-1, ValueError, "step: got -1, wanted a count from 1"),
        (2**63, ValueError, f"step: got {2**63}, wanted a count from 1"),
        (1.0, TypeError, "step: got float, wanted an int"),
        (True, TypeError, "step: got bool, wanted an int"),
        (None, TypeError, "step: got NoneType, wanted an int"),
    ],
)
def test_bad_step_is_refused(interface, value, kind, message, refused):
    subject = Subject(interface)
    with refused(kind, message, *subject.watched()):
        subject.step(step=value)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_last_step_that_can_be_counted_is_not_followed_by_a_negative_one(optimizer, refused):
    subject = Subject(optimizer)
    subject.optimizer.state[SPOILED]["step"] = 2**63 - 1
    with refused(ValueError, re.compile(r"params\[3\]: .*step.*"), *subject.watched()):
        subject.step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_unknown_hyperparameter_is_refused(optimizer, refused):
    create = getattr(rmsprop, optimizer)
    known = ", ".join(create(np.ones(1)).defaults)
    array = np.ones(3)
    with refused(TypeError, re.compile(r".*unexpected keyword argument 'momentun'.*"), array):
        create(array, momentun=0.9)
    message = f"param_groups: unknown hyperparameter momentun; this optimizer has {known}"
    with refused(ValueError, message, array):
        create([{"params": array, "momentun": 0.9}])

    subject = Subject(optimizer)
    with refused(ValueError, message, *subject.watched()):
        subject.optimizer.add_param_group({"params": array, "momentun": 0.9})
    for key in ("momentun", "num_threads", 0, "LR"):
        subject = Subject(optimizer)
        subject.set(key, 0.9)
        with refused(ValueError, f"param_groups: unknown key {key!r}", *subject.watched()):
            subject.step()


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [(o, name) for o in OPTIMIZERS for name in (*NUMBERS[o], *FLAGS[o]) if name not in MAY_BE_MISSING],
)
def test_hyperparameter_deleted_from_a_group_is_missed(optimizer, name, refused):
    subject = Subject(optimizer)
    del subject.optimizer.param_groups[0][name]
    with refused(ValueError, f"{name}: missing from the parameter group", *subject.watched()):
        subject.step()
