"""Arrays that a step cannot use are refused by name, and every array stays byte for byte as it was."""

import numpy as np
import pytest

import rmsprop
from bad_input import (
    GOOD,
    INTERFACES,
    OPTIMIZERS,
    SHAPES,
    SPOILED,
    STATE,
    BadArray,
    Subject,
    cases_for,
    not_an_array,
    operands,
)
from rmsprop import functional

# ---- Arrays that cannot be used --------------------------------------------------------------------------------------


def unlike_an_array(make, name):
    return BadArray(make, TypeError, not_an_array(name))


def of_dtype(dtype):
    wanted = "wanted float32, float64, complex64, complex128, bfloat16 or float16 in native byte order"
    return BadArray(lambda good: np.zeros(good.shape, dtype), TypeError, f"got dtype {np.dtype(dtype)}, {wanted}")


class HasArray:
    """Offers an array, as tensors of other libraries do."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


UNUSABLE = {
    "list": unlike_an_array(np.ndarray.tolist, "list"),
    "tuple": unlike_an_array(tuple, "tuple"),
    "float": unlike_an_array(lambda good: 1.0, "float"),
    "numpy scalar": unlike_an_array(lambda good: good[0], "numpy.float32"),
    "memoryview": unlike_an_array(memoryview, "memoryview"),
    "object with __array__": unlike_an_array(HasArray, "HasArray"),
    "masked array": BadArray(
        lambda good: np.ma.masked_array(good, good > 0),
        TypeError,
        "got a masked array, wanted a plain one: a step has no notion of masked elements (use .data or .filled())",
    ),
    "big-endian or little-endian, whichever the machine is not": of_dtype(np.dtype(np.float32).newbyteorder()),
    "big-endian or little-endian complex": of_dtype(np.dtype(np.complex128).newbyteorder()),
    "int32": of_dtype(np.int32),
    "int64": of_dtype(np.int64),
    "uint16": of_dtype(np.uint16),
    "bool": of_dtype(np.bool_),
    "object": of_dtype(object),
    "structured": of_dtype([("value", np.float32)]),
    "subarray of bytes": of_dtype("V4"),
    "str": of_dtype("U1"),
    "datetime": of_dtype("M8[s]"),
    "longdouble": of_dtype(np.longdouble),
    "clongdouble": of_dtype(np.clongdouble),
}


@pytest.mark.parametrize(("interface", "operand", "case"), cases_for(UNUSABLE, operands))
def test_array_that_would_need_a_copy_is_refused(interface, operand, case, refused):
    subject = Subject(interface)
    bad = case.make(subject.get_array(operand))
    subject.put_array(operand, bad)
    with refused(case.kind, f"{subject.label(operand)}: {case.message}", *subject.watched(), bad):
        subject.step()


@pytest.mark.parametrize("case", UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parameter_that_would_need_a_copy_is_refused_by_the_constructor(optimizer, case, refused):
    good = GOOD.copy()
    bad = case.make(good)
    for params, name in (([good, bad], "params[1]"), ({"good": good, "bad": bad}, "params['bad']")):
        with refused(case.kind, f"{name}: {case.message}", good, bad):
            getattr(rmsprop, optimizer)(params)


# ---- Arrays that do not match their parameter ------------------------------------------------------------------------

MISMATCHED = {
    "shorter": BadArray(lambda good: good[:64].copy(), ValueError, "shape (64,) does not match {param} (128,)"),
    "longer": BadArray(lambda good: np.resize(good, 129), ValueError, "shape (129,) does not match {param} (128,)"),
    "other shape of as many elements": BadArray(
        lambda good: good.reshape(64, 2), ValueError, "shape (64, 2) does not match {param} (128,)"
    ),
    "column": BadArray(lambda good: good[:, None], ValueError, "shape (128, 1) does not match {param} (128,)"),
    "row": BadArray(lambda good: good[None], ValueError, "shape (1, 128) does not match {param} (128,)"),
    "0-d, which NumPy would broadcast": BadArray(
        lambda good: good[0, ...], ValueError, "shape () does not match {param} (128,)"
    ),
    "one element, which NumPy would broadcast": BadArray(
        lambda good: good[:1], ValueError, "shape (1,) does not match {param} (128,)"
    ),
    "empty": BadArray(lambda good: good[:0], ValueError, "shape (0,) does not match {param} (128,)"),
    "float64": BadArray(
        lambda good: good.astype(np.float64), TypeError, "dtype float64 does not match {param} float32"
    ),
    "complex64": BadArray(
        lambda good: good.astype(np.complex64), TypeError, "dtype complex64 does not match {param} float32"
    ),
    "dtype and shape": BadArray(
        lambda good: np.ones(3, np.complex128), TypeError, "dtype complex128 does not match {param} float32"
    ),
}


@pytest.mark.parametrize(
    ("interface", "operand", "case"), cases_for(MISMATCHED, lambda interface: ("grads", *STATE[interface]))
)
def test_array_unlike_its_parameter_is_refused(interface, operand, case, refused):
    subject = Subject(interface)
    bad = case.make(subject.get_array(operand))
    subject.put_array(operand, bad)
    message = f"{subject.label(operand)}: {case.message.format(param=subject.label('params'))}"
    with refused(case.kind, message, *subject.watched(), bad):
        subject.step()


@pytest.mark.parametrize(
    ("dtype", "other"),
    [
        (np.float64, np.float32),
        (np.complex64, np.float32),
        (np.complex64, np.complex128),
        (np.complex128, np.float64),
        (np.complex128, np.complex64),
    ],
)
@pytest.mark.parametrize("interface", INTERFACES)
def test_gradient_of_another_dtype_is_refused(interface, dtype, other, refused):
    subject = Subject(interface, dtype)
    subject.grads[SPOILED] = subject.grads[SPOILED].real.astype(other)
    names = subject.label("grads"), np.dtype(other), subject.label("params"), np.dtype(dtype)
    with refused(TypeError, "{}: dtype {} does not match {} {}".format(*names), *subject.watched()):
        subject.step()


def test_message_of_a_wrong_shape_is_the_one_the_design_promises(refused):
    subject = Subject("RMSprop")
    subject.grads[3] = np.zeros(64, np.float32)
    with refused(ValueError, "grads[3]: shape (64,) does not match params[3] (128,)", *subject.watched()):
        subject.step()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda a, b: rmsprop.RMSprop({"w": a}).step({"w": b}),
            "grads['w']: shape (2,) does not match params['w'] (3,)",
        ),
        (lambda a, b: rmsprop.RMSprop(a).step(b), "grads: shape (2,) does not match params (3,)"),
        (lambda a, b: functional.adagrad_(a, b, a.copy(), lr=1), "grad: shape (2,) does not match param (3,)"),
        (lambda a, b: functional.adagrad_(a, a.copy(), b, lr=1), "sum: shape (2,) does not match param (3,)"),
        (
            lambda a, b: functional.rmsprop_(a, a.copy(), a.copy(), lr=1, momentum=0.1, momentum_buffer=b),
            "momentum_buffer: shape (2,) does not match param (3,)",
        ),
        (
            lambda a, b: functional.rmsprop_([a], [a.copy()], [b], lr=1),
            "square_avg[0]: shape (2,) does not match param[0] (3,)",
        ),
    ],
)
def test_message_uses_the_names_the_caller_uses(call, message, refused):
    a, b = np.ones(3), np.ones(2)
    with refused(ValueError, message, a, b):
        call(a, b)


def test_message_about_the_state_of_a_single_parameter_is_one_that_can_be_typed(refused):
    optimizer = rmsprop.RMSprop(np.ones(3))
    optimizer.state[0]["square_avg"] = np.ones(2)
    message = "state[0]['square_avg']: shape (2,) does not match params (3,)"
    with refused(ValueError, message, optimizer):
        optimizer.step(np.ones(3))


# ---- Arrays that cannot be written -----------------------------------------------------------------------------------

CANNOT_SHARE = (
    "got an array whose elements share memory (strides of a broadcast or sliding-window view), "
    "wanted one that can be updated in place"
)


def read_only(good):
    bad = good.copy()
    bad.flags.writeable = False
    return bad


def with_strides(good, strides, shape=SHAPES[SPOILED]):
    return np.lib.stride_tricks.as_strided(np.resize(good, 256), shape, strides)


UNWRITEABLE = {
    "read-only": BadArray(read_only, ValueError, "got a read-only array, wanted one that can be updated in place"),
    "broadcast": BadArray(
        lambda good: np.broadcast_to(good[:1], good.shape),
        ValueError,
        "got a read-only array, wanted one that can be updated in place",
    ),
    "writeable broadcast": BadArray(lambda good: with_strides(good, (0,)), ValueError, CANNOT_SHARE),
    "elements that overlap by half": BadArray(lambda good: with_strides(good, (2,)), ValueError, CANNOT_SHARE),
    "elements that overlap by a byte": BadArray(
        lambda good: with_strides(good, (good.itemsize - 1,)), ValueError, CANNOT_SHARE
    ),
    "elements that overlap backwards": BadArray(lambda good: with_strides(good, (2,))[::-1], ValueError, CANNOT_SHARE),
}


@pytest.mark.parametrize(
    ("interface", "operand", "case"), cases_for(UNWRITEABLE, lambda interface: ("params", *STATE[interface]))
)
def test_array_that_cannot_be_updated_in_place_is_refused(interface, operand, case, refused):
    subject = Subject(interface)
    bad = case.make(subject.get_array(operand))
    subject.put_array(operand, bad)
    with refused(case.kind, f"{subject.label(operand)}: {case.message}", *subject.watched(), bad):
        subject.step()


@pytest.mark.parametrize("operand", ["params", "sum"])
def test_sliding_window_is_refused(operand, refused):
    windows = np.lib.stride_tricks.sliding_window_view(np.ones(130), 3, writeable=True)
    arrays = {"params": np.ones((128, 3)), "sum": np.ones((128, 3)), operand: windows}
    label = operand.removesuffix("s")
    with refused(ValueError, f"{label}: {CANNOT_SHARE}", arrays):
        functional.adagrad_(arrays["params"], np.ones((128, 3)), arrays["sum"], lr=1)


@pytest.mark.parametrize("case", UNWRITEABLE.values(), ids=UNWRITEABLE)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parameter_that_cannot_be_updated_in_place_is_refused_by_the_constructor(optimizer, case, refused):
    bad = case.make(GOOD)
    with refused(case.kind, f"params: {case.message}", bad):
        getattr(rmsprop, optimizer)(bad)
