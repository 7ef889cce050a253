"""Steps after a failed one, and after arrays have changed: the bits of the reference, or an error and no change."""

import numpy as np
import pytest

import rmsprop
from bad_input import INTERFACES, OPTIMIZERS, SHAPES, SPOILED, STATE, Subject, accumulator_of, contents
from bits import assert_same_bits
from rmsprop import reference

# ---- A call that fails leaves no trace -------------------------------------------------------------------------------


def test_step_that_fails_adds_no_state(refused):
    """Even if it would have been the first to need a buffer."""
    params, grads = [np.ones(3), np.ones(3)], [np.ones(3), np.ones(2)]
    optimizer = rmsprop.RMSprop(params)
    optimizer.param_groups[0].update(momentum=0.9, centered=True)
    with refused(ValueError, "grads[1]: shape (2,) does not match params[1] (3,)", optimizer, grads):
        optimizer.step(grads)


@pytest.mark.parametrize("interface", INTERFACES)
def test_good_step_after_many_failures_gives_the_bits_of_a_first_one(interface):
    subject, untouched = Subject(interface), Subject(interface)
    good = subject.grads[SPOILED]
    for bad in (good[:3], good.astype(int), subject.get_array("params"), [1.0]):
        subject.grads[SPOILED] = bad
        with pytest.raises((TypeError, ValueError)):
            subject.step()
    subject.grads[SPOILED] = good
    subject.step()
    untouched.step()
    for operand in ("params", *STATE[interface]):
        for index in range(len(SHAPES)):
            assert_same_bits(subject.get_array(operand, index), untouched.get_array(operand, index))
    if subject.optimizer is not None:
        assert [entry["step"] for entry in subject.optimizer.state.values()] == [2] * len(SHAPES)


# ---- Arrays that change between steps --------------------------------------------------------------------------------


def one_parameter(optimizer, size=128):
    param, grad = np.ones(size), np.full(size, 0.5)
    optimizer = getattr(rmsprop, optimizer)([param], lr=0.1)
    optimizer.step([grad])
    return optimizer, param, grad


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("size", [64, 100_000])
def test_parameter_resized_between_steps_is_noticed(optimizer, size, refused):
    optimizer, param, grad = one_parameter(optimizer)
    param.resize(size, refcheck=False)
    name = accumulator_of(optimizer)
    with refused(ValueError, f"grads[0]: shape (128,) does not match params[0] ({size},)", optimizer, grad):
        optimizer.step([grad])
    message = f"state[0]['{name}']: shape (128,) does not match params[0] ({size},)"
    with refused(ValueError, message, optimizer, grad):
        optimizer.step([np.ones(size)])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("size", [64, 100_000])
def test_arrays_all_resized_between_steps_have_the_bits_of_the_reference(optimizer, size):
    optimizer, param, grad = one_parameter(optimizer)
    accumulator = optimizer.state[0][accumulator_of(optimizer)]
    for array in (param, grad, accumulator):
        array.resize(size, refcheck=False)
    grad += 0.25
    expected = param.copy(), accumulator.copy()
    rule = reference.rmsprop_ if isinstance(optimizer, rmsprop.RMSprop) else reference.adagrad_
    rule(expected[0], grad, expected[1], lr=0.1)
    optimizer.step([grad])
    assert_same_bits(param, expected[0])
    assert_same_bits(accumulator, expected[1])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_arrays_replaced_between_steps_are_the_ones_updated(optimizer):
    optimizer, param, grad = one_parameter(optimizer)
    name = accumulator_of(optimizer)
    accumulator = optimizer.state[0][name]
    new_param, new_accumulator = param.copy(), accumulator.copy()
    expected = param.copy(), accumulator.copy()
    before = contents([param, accumulator])
    optimizer.param_groups[0]["params"][0] = new_param
    optimizer.state[0][name] = new_accumulator
    optimizer.step([grad])
    rule = reference.rmsprop_ if isinstance(optimizer, rmsprop.RMSprop) else reference.adagrad_
    rule(expected[0], grad, expected[1], lr=0.1)
    assert_same_bits(new_param, expected[0])
    assert_same_bits(new_accumulator, expected[1])
    assert contents([param, accumulator]) == before


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_array_made_read_only_between_steps_is_noticed(optimizer, refused):
    optimizer, param, grad = one_parameter(optimizer)
    accumulator = optimizer.state[0][accumulator_of(optimizer)]
    wanted = "got a read-only array, wanted one that can be updated in place"
    accumulator.flags.writeable = False
    with refused(ValueError, f"state[0]['{accumulator_of(optimizer)}']: {wanted}", optimizer, grad):
        optimizer.step([grad])
    param.flags.writeable = False
    with refused(ValueError, f"params[0]: {wanted}", optimizer, grad):
        optimizer.step([grad])
    param.flags.writeable = accumulator.flags.writeable = True
    optimizer.step([grad])
    assert optimizer.state[0]["step"] == 2
