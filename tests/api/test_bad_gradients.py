"""Gradients in a wrong container are refused by name, as are the arguments of functions; a NaN stays in its place."""

import math
import re

import numpy as np
import pytest

import rmsprop
from bad_input import GOOD, INTERFACES, OPTIMIZERS, SPOILED, STATE, Subject, not_a_sequence, not_an_array
from bits import assert_same_bits
from rmsprop import functional

# ---- Containers of gradients -----------------------------------------------------------------------------------------


def not_a_dict(found):
    return f": got {found}, wanted a dict with the names of the parameters"


ONE_ARRAY = "wanted one numpy.ndarray, since the parameter is one array, too, in no list or dict"

# What the parameters are in, and the message after `grads`.
BAD_GRADS = {
    "too few": (list, lambda a, b: [a], ValueError, ": got 1 gradients, wanted 2, one for each parameter"),
    "too many": (list, lambda a, b: (a, b, a), ValueError, ": got 3 gradients, wanted 2, one for each parameter"),
    "no gradients": (list, lambda a, b: [], ValueError, ": got 0 gradients, wanted 2, one for each parameter"),
    "one array for all": (list, lambda a, b: np.ones((2, 3)), TypeError, not_a_sequence("numpy.ndarray")),
    "dict for a list": (list, lambda a, b: {0: a, 1: b}, TypeError, not_a_sequence("dict")),
    "None for a list": (list, lambda a, b: None, TypeError, not_a_sequence("NoneType")),
    "generator": (list, lambda a, b: (grad for grad in (a, b)), TypeError, not_a_sequence("generator")),
    "set": (list, lambda a, b: {1, 2}, TypeError, not_a_sequence("set")),
    "str": (list, lambda a, b: "ab", TypeError, f"[0]: {not_an_array('str')}"),
    "missing name": (dict, lambda a, b: {"a": a}, ValueError, ": nothing for parameter 'b' (None would skip it)"),
    "no names": (dict, lambda a, b: {}, ValueError, ": nothing for parameter 'a' (None would skip it)"),
    "misspelt": (dict, lambda a, b: {"a": a, "B": b}, ValueError, ": nothing for parameter 'b' (None would skip it)"),
    "unknown name": (dict, lambda a, b: {"a": a, "b": b, "c": None}, ValueError, ": unknown parameter 'c'"),
    "name that is no str": (dict, lambda a, b: {"a": a, "b": b, 0: a}, ValueError, ": unknown parameter 0"),
    "list for a dict": (dict, lambda a, b: [a, b], TypeError, not_a_dict("list")),
    "None for a dict": (dict, lambda a, b: None, TypeError, not_a_dict("NoneType")),
    "list for an array": (np.ndarray, lambda a, b: [a], TypeError, f": got list, {ONE_ARRAY}"),
    "dict for an array": (np.ndarray, lambda a, b: {"a": a}, TypeError, f": got dict, {ONE_ARRAY}"),
    "number for an array": (np.ndarray, lambda a, b: 1.0, TypeError, f": {not_an_array('float')}"),
}


@pytest.mark.parametrize(("container", "make", "kind", "message"), BAD_GRADS.values(), ids=BAD_GRADS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradients_in_a_wrong_container_are_refused(optimizer, container, make, kind, message, refused):
    a, b = np.ones(3), np.ones(2)
    params = {list: [a, b], dict: {"a": a, "b": b}, np.ndarray: a}[container]
    optimizer = getattr(rmsprop, optimizer)(params)
    grads = make(np.ones(3), np.ones(2))
    with refused(kind, f"grads{message}", optimizer, grads):
        optimizer.step(grads)


# ---- What functions get ----------------------------------------------------------------------------------------------


def adagrad(param, grad, state):
    return lambda: functional.adagrad_(param, grad, state, lr=0.1)


def rmsprop_with(param, grad, state, **more):
    return lambda: functional.rmsprop_(param, grad, state, lr=0.1, **more)


NOT_ARRAYS = "wanted a numpy.ndarray or a list of them"
# From parameters p and q, a gradient g, and states s and t.
BAD_CALLS = {
    "int": (lambda p, q, g, s, t: adagrad(5, g, s), TypeError, f"param: got int, {NOT_ARRAYS}"),
    "None": (lambda p, q, g, s, t: rmsprop_with(None, g, s), TypeError, f"param: got NoneType, {NOT_ARRAYS}"),
    "dict": (
        lambda p, q, g, s, t: adagrad({"p": p}, {"p": g}, {"p": s}),
        TypeError,
        f"param: got dict, {NOT_ARRAYS}",
    ),
    "iterator": (
        lambda p, q, g, s, t: adagrad(iter([p]), [g], [s]),
        TypeError,
        f"param: got list_iterator, {NOT_ARRAYS}",
    ),
    "list of grads for an array": (
        lambda p, q, g, s, t: adagrad(p, [g], s),
        TypeError,
        f"grad: got list, {ONE_ARRAY}",
    ),
    "list of states for an array": (
        lambda p, q, g, s, t: adagrad(p, g, [s]),
        TypeError,
        f"sum: {not_an_array('list')}",
    ),
    "grad for a list": (
        lambda p, q, g, s, t: adagrad([p], g, [s]),
        TypeError,
        f"grad{not_a_sequence('numpy.ndarray')}",
    ),
    "state for a list": (
        lambda p, q, g, s, t: rmsprop_with([p], [g], s),
        TypeError,
        re.compile(r"square_avg: got (numpy\.)?ndarray, wanted a list\b.*"),
    ),
    "too few grads": (
        lambda p, q, g, s, t: adagrad([p, q], [g], [s, t]),
        ValueError,
        "grad: got 1 gradients, wanted 2, one for each parameter",
    ),
    "too many grads": (
        lambda p, q, g, s, t: rmsprop_with([p], [g, g], [s]),
        ValueError,
        "grad: got 2 gradients, wanted 1, one for each parameter",
    ),
    "too few states": (
        lambda p, q, g, s, t: adagrad([p, q], [g, g], [s]),
        ValueError,
        "sum: got 1 arrays, wanted 2, one for each parameter",
    ),
    "too many states of an unused kind": (
        lambda p, q, g, s, t: rmsprop_with([p], [g], [s], grad_avg=[t, t]),
        ValueError,
        "grad_avg: got 2 arrays, wanted 1, one for each parameter",
    ),
    "no accumulator": (
        lambda p, q, g, s, t: rmsprop_with(p, g, None),
        ValueError,
        "square_avg: got None, but these hyperparameters need it",
    ),
    "no accumulator for the second": (
        lambda p, q, g, s, t: adagrad([p, q], [g, g], [s, None]),
        ValueError,
        "sum[1]: got None, but these hyperparameters need it",
    ),
    "no grad_avg": (
        lambda p, q, g, s, t: rmsprop_with(p, g, s, centered=True),
        ValueError,
        "grad_avg: got None, but these hyperparameters need it",
    ),
    "no momentum_buffer": (
        lambda p, q, g, s, t: rmsprop_with([p], [g], [s], momentum=0.1),
        ValueError,
        "momentum_buffer[0]: got None, but these hyperparameters need it",
    ),
    "None for the second param": (
        lambda p, q, g, s, t: adagrad([p, None], [g, g], [s, t]),
        TypeError,
        f"param[1]: {not_an_array('NoneType')}",
    ),
}


@pytest.mark.parametrize(("prepare", "kind", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_function_refuses_wrong_containers(prepare, kind, message, refused):
    arrays = [np.ones(3) for _ in range(5)]
    call = prepare(*arrays)
    with refused(kind, message, arrays):
        call()


# ---- Not a number ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 17, 127])
def test_nan_or_infinity_in_a_gradient_changes_the_class_of_that_element_only(interface, dtype, bad, place):
    subject, clean = Subject(interface, dtype), Subject(interface, dtype)
    part = subject.grads[SPOILED].imag if np.issubdtype(dtype, np.complexfloating) else subject.grads[SPOILED]
    part[place] = bad
    subject.step()
    clean.step()
    for operand in ("params", *STATE[interface]):
        for index in range(SPOILED):
            assert_same_bits(subject.get_array(operand, index), clean.get_array(operand, index))
        numbers, expected = (each.get_array(operand).view(part.dtype) for each in (subject, clean))
        stride = numbers.size // GOOD.size
        spoiled = place * stride + stride - 1
        assert not np.isfinite(numbers[spoiled])
        numbers[spoiled] = expected[spoiled] = 0
        assert_same_bits(numbers, expected)
        assert np.isfinite(numbers).all()
