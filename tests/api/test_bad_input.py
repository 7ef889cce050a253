"""Whatever is wrong with a call: it says so by name, and leaves every array byte for byte as it was."""

import decimal
import fractions
import math
import re
import threading
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest

import rmsprop
from bits import assert_same_bits
from hyperparameter_names import FLAGS, LIMITS, NUMBERS
from rmsprop import functional, reference

OPTIMIZERS = ("RMSprop", "Adagrad")
FUNCTIONS = ("rmsprop_", "adagrad_")
INTERFACES = (*OPTIMIZERS, *FUNCTIONS)

# The state of each interface. With these hyperparameters RMSprop uses all of it.
STATE = {
    "RMSprop": ("square_avg", "grad_avg", "momentum_buffer"),
    "rmsprop_": ("square_avg", "grad_avg", "momentum_buffer"),
    "Adagrad": ("sum",),
    "adagrad_": ("sum",),
}
HYPERPARAMETERS = {
    "RMSprop": {"lr": 0.1, "momentum": 0.5, "centered": True},
    "rmsprop_": {"lr": 0.1, "momentum": 0.5, "centered": True},
    "Adagrad": {"lr": 0.1},
    "adagrad_": {"lr": 0.1},
}


# ---- What must not change --------------------------------------------------------------------------------------------


def contents(thing):
    """Return, as something to compare, all of an array or an optimizer that a failed call must leave alone."""
    if isinstance(thing, rmsprop.optimizers.Optimizer):
        groups = [{name: contents(value) for name, value in group.items()} for group in thing.param_groups]
        state = {key: {name: contents(value) for name, value in entry.items()} for key, entry in thing.state.items()}
        return groups, state
    if isinstance(thing, np.ndarray):
        whole = thing
        while isinstance(whole.base, np.ndarray):  # to see the gaps between the elements of a view, too
            whole = whole.base
        return id(thing), repr(thing.__array_interface__), whole.tobytes()
    if isinstance(thing, (list, tuple)):
        return [contents(item) for item in thing]
    if isinstance(thing, dict):
        return {name: contents(value) for name, value in thing.items()}
    return repr(thing)


@pytest.fixture
def refused():
    """Expect one kind of exception, with one message and no other, and no change in anything that is watched."""

    @contextmanager
    def expect(kind, message, *watched):
        pattern = message if isinstance(message, re.Pattern) else re.compile(re.escape(message))
        before = contents(watched)
        with pytest.raises(kind) as caught:
            yield
        assert pattern.fullmatch(str(caught.value)), f"{caught.value!r}\nwanted {pattern.pattern}"
        assert contents(watched) == before

    return expect


# ---- Four ways to take a step, alike ---------------------------------------------------------------------------------

SHAPES = ((4,), (), (128,), (128,))
SPOILED = 3  # the parameter that tests spoil: the last, when all others have passed every check


class Subject:
    """Four parameters with gradients and state, all of them good, of one optimizer or in the hands of one function."""

    def __init__(self, interface, dtype=np.float32):
        rng = np.random.default_rng(0)
        self.interface = interface
        self.hyperparameters = dict(HYPERPARAMETERS[interface])
        self.grads = [np.array(rng.standard_normal(shape), dtype) for shape in SHAPES]
        params = [np.array(rng.standard_normal(shape), dtype) for shape in SHAPES]
        if interface in OPTIMIZERS:
            self.optimizer = getattr(rmsprop, interface)(params, **self.hyperparameters)
            self.arrays = {"params": self.optimizer.param_groups[0]["params"]}
        else:
            self.optimizer = None
            self.arrays = {"params": params, **{name: [np.zeros_like(p) for p in params] for name in STATE[interface]}}
        self.step()  # so that no array is all zeros

    def step(self, **more):
        if self.optimizer is not None:
            self.optimizer.step(self.grads, **more)
        else:
            params, accumulator, *rest = self.arrays
            rule = getattr(functional, self.interface)
            rest = {name: self.arrays[name] for name in rest}
            rule(self.arrays[params], self.grads, self.arrays[accumulator], **rest, **{**self.hyperparameters, **more})

    def set(self, name, value):
        """Set a hyperparameter."""
        if self.optimizer is not None:
            self.optimizer.param_groups[0][name] = value
        else:
            self.hyperparameters[name] = value

    def get_array(self, operand, index=SPOILED):
        if operand == "grads":
            return self.grads[index]
        if self.optimizer is not None and operand != "params":
            return self.optimizer.state[index][operand]
        return self.arrays[operand][index]

    def put_array(self, operand, array, index=SPOILED):
        if operand == "grads":
            self.grads[index] = array
        elif self.optimizer is not None and operand != "params":
            self.optimizer.state[index][operand] = array
        else:
            self.arrays[operand][index] = array

    def label(self, operand, index=SPOILED):
        """Return what messages call an array."""
        if self.optimizer is None:
            return f"{operand.removesuffix('s')}[{index}]"  # param and grad
        return f"{operand}[{index}]" if operand in ("params", "grads") else f"state[{index}]['{operand}']"

    def watched(self):
        return self.optimizer, self.arrays, self.grads


def operands(interface):
    return ("params", "grads", *STATE[interface])


# ---- Arrays that cannot be used --------------------------------------------------------------------------------------


class BadArray(NamedTuple):
    make: Any  # from the good array, of float32
    kind: type
    message: str  # after the name of the argument


def not_an_array(found):
    return f"got {found}, wanted a numpy.ndarray, which can be used without a copy"


def unlike_an_array(make, name):
    return BadArray(make, TypeError, not_an_array(name))


def of_dtype(dtype):
    wanted = "wanted float32, float64, complex64 or complex128 in native byte order"
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
    "uint8": of_dtype(np.uint8),
    "bool": of_dtype(np.bool_),
    "object": of_dtype(object),
    "structured": of_dtype([("value", np.float32)]),
    "subarray of bytes": of_dtype("V4"),
    "str": of_dtype("U1"),
    "datetime": of_dtype("M8[s]"),
    "float16": of_dtype(np.float16),
    "longdouble": of_dtype(np.longdouble),
    "clongdouble": of_dtype(np.clongdouble),
}


def cases_for(table, operands_of):
    """Return (interface, operand, case) for pytest to be parametrised with."""
    return [
        pytest.param(interface, operand, case, id=f"{interface}-{operand}-{name}")
        for interface in INTERFACES
        for operand in operands_of(interface)
        for name, case in table.items()
        # An optimizer's state refuses what is no array when it is put there: see test_optimizers.py.
        if interface in FUNCTIONS or operand not in STATE[interface] or isinstance(case.make(GOOD), np.ndarray)
    ]


GOOD = np.ones(SHAPES[SPOILED], np.float32)


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


# ---- Shared memory ---------------------------------------------------------------------------------------------------

PARAM, GRAD, STATE_ARRAY = ("params", SPOILED), ("grads", SPOILED), ("state", SPOILED)
OTHER_PARAM, OTHER_STATE = ("params", 2), ("state", 2)


class Overlap(NamedTuple):
    replace: Any  # from a function that gets an array of the subject: {(operand, index): array to put there}
    first: tuple  # the arrays that are then said to share memory
    second: tuple


def shifted(first, second, shift):
    """Return two arrays in one piece of memory, the second `shift` bytes after the first."""
    size = GOOD.nbytes
    memory = np.ones(size + abs(shift), np.uint8)
    starts = max(0, -shift), max(0, shift)
    return dict(zip((first, second), (memory[s : s + size].view(np.float32) for s in starts), strict=True))


def backwards_over(first, second):
    """Return two arrays of which the first begins beyond the end of the second and runs back into it."""
    memory = np.ones(GOOD.size * 3 // 2, np.float32)
    return {first: memory[GOOD.size // 2 :][::-1], second: memory[: GOOD.size]}


def every_second_and_every_third(first, second):
    memory = np.ones(3 * GOOD.size, np.float32)
    return {first: memory[1 : 2 * GOOD.size : 2], second: memory[::3]}


OVERLAPS = {
    "gradient is its parameter": Overlap(lambda get: {GRAD: get(*PARAM)}, PARAM, GRAD),
    "gradient is another parameter": Overlap(lambda get: {GRAD: get(*OTHER_PARAM)}, OTHER_PARAM, GRAD),
    "gradient is its state": Overlap(lambda get: {GRAD: get(*STATE_ARRAY)}, STATE_ARRAY, GRAD),
    "gradient is the state of another": Overlap(lambda get: {GRAD: get(*OTHER_STATE)}, OTHER_STATE, GRAD),
    "gradient is a view of its parameter": Overlap(lambda get: {GRAD: get(*PARAM)[:]}, PARAM, GRAD),
    "gradient is its parameter backwards": Overlap(lambda get: {GRAD: get(*PARAM)[::-1]}, PARAM, GRAD),
    "gradient is one element of its parameter": Overlap(
        lambda get: {GRAD: np.broadcast_to(get(*PARAM)[5:6], GOOD.shape)}, PARAM, GRAD
    ),
    "gradient is shifted by one element": Overlap(lambda get: shifted(PARAM, GRAD, 4), PARAM, GRAD),
    "gradient is shifted back by one element": Overlap(lambda get: shifted(PARAM, GRAD, -4), PARAM, GRAD),
    "gradient shares one byte at the end": Overlap(lambda get: shifted(PARAM, GRAD, 511), PARAM, GRAD),
    "gradient shares one byte at the start": Overlap(lambda get: shifted(PARAM, GRAD, -511), PARAM, GRAD),
    "gradient runs back into its parameter": Overlap(lambda get: backwards_over(GRAD, PARAM), PARAM, GRAD),
    "gradient is run back into": Overlap(lambda get: backwards_over(PARAM, GRAD), PARAM, GRAD),
    "gradient interleaves and meets": Overlap(lambda get: every_second_and_every_third(PARAM, GRAD), PARAM, GRAD),
    "state is its parameter": Overlap(lambda get: {STATE_ARRAY: get(*PARAM)}, PARAM, STATE_ARRAY),
    "state is another parameter": Overlap(lambda get: {STATE_ARRAY: get(*OTHER_PARAM)}, OTHER_PARAM, STATE_ARRAY),
    "state is the state of another": Overlap(lambda get: {STATE_ARRAY: get(*OTHER_STATE)}, OTHER_STATE, STATE_ARRAY),
    "state is shifted by 16 elements": Overlap(lambda get: shifted(PARAM, STATE_ARRAY, 64), PARAM, STATE_ARRAY),
    "state is shifted back by 17": Overlap(lambda get: shifted(PARAM, STATE_ARRAY, -68), PARAM, STATE_ARRAY),
    "state runs back into its parameter": Overlap(lambda get: backwards_over(STATE_ARRAY, PARAM), PARAM, STATE_ARRAY),
    "state interleaves and meets": Overlap(
        lambda get: every_second_and_every_third(PARAM, STATE_ARRAY), PARAM, STATE_ARRAY
    ),
    "two parameters are one": Overlap(lambda get: {PARAM: get(*OTHER_PARAM)}, OTHER_PARAM, PARAM),
    "two parameters share one element": Overlap(lambda get: shifted(OTHER_PARAM, PARAM, -508), OTHER_PARAM, PARAM),
}


def shares_memory(first, second):
    return f"{first}: shares memory with {second}, so that updating one would change the other"


@pytest.mark.parametrize("overlap", OVERLAPS.values(), ids=OVERLAPS)
@pytest.mark.parametrize(
    ("interface", "state"), [(interface, name) for interface in INTERFACES for name in STATE[interface]]
)
def test_arrays_that_share_memory_are_refused(interface, state, overlap, refused):
    subject = Subject(interface)

    def place(operand, index):
        return (state if operand == "state" else operand), index

    replacements = overlap.replace(lambda operand, index: subject.get_array(*place(operand, index)))
    for where, array in replacements.items():
        operand, index = place(*where)
        subject.put_array(operand, array, index)
    first, second = (subject.label(*place(*where)) for where in (overlap.first, overlap.second))
    for _ in range(2):  # what the first attempt learned about these arrays must not let the second one through
        with refused(ValueError, shares_memory(first, second), *subject.watched()):
            subject.step()


@pytest.mark.parametrize("overlap", OVERLAPS.values(), ids=OVERLAPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_arrays_that_share_memory_across_groups_are_refused(optimizer, overlap, refused):
    subject = Subject(optimizer)
    params = subject.arrays["params"]
    optimizer = getattr(rmsprop, optimizer)([{"params": [param]} for param in params], lr=0.1)
    optimizer.step(subject.grads)
    accumulator = accumulator_of(optimizer)

    def array_at(operand, index):
        if operand == "state":
            return optimizer.state[index][accumulator]
        return subject.grads[index] if operand == "grads" else optimizer.param_groups[index]["params"][0]

    for (operand, index), array in overlap.replace(array_at).items():
        if operand == "state":
            optimizer.state[index][accumulator] = array
        elif operand == "grads":
            subject.grads[index] = array
        else:
            optimizer.param_groups[index]["params"][0] = array
    first, second = (
        f"state[{index}]['{accumulator}']" if operand == "state" else f"{operand}[{index}]"
        for operand, index in (overlap.first, overlap.second)
    )
    for _ in range(2):
        with refused(ValueError, shares_memory(first, second), optimizer, subject.grads):
            optimizer.step(subject.grads)


@pytest.mark.parametrize("interface", ["RMSprop", "rmsprop_"])
def test_one_array_for_two_kinds_of_state_is_refused(interface, refused):
    subject = Subject(interface)
    subject.put_array("momentum_buffer", subject.get_array("grad_avg"))
    message = shares_memory(subject.label("grad_avg"), subject.label("momentum_buffer"))
    with refused(ValueError, message, *subject.watched()):
        subject.step()


SHARING_VIEWS = {
    "twice": lambda a: (a, a),
    "backwards": lambda a: (a, a[::-1]),
    "one element": lambda a: (a[:5], a[4:]),
    "transposed": lambda a: (a.reshape(4, 3), a.reshape(3, 4).T[:, :1]),
    "one column": lambda a: (a.reshape(4, 3)[:, :2], a.reshape(4, 3)[:, 1:]),
    "other dtype": lambda a: (a, a.view(np.float32)[7:8]),
    "imaginary part": lambda a: (a.view(np.complex128), a[3:4]),
    "0-d": lambda a: (a, a[6:7].reshape(())),
}


@pytest.mark.parametrize("views", SHARING_VIEWS.values(), ids=SHARING_VIEWS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parameters_that_share_memory_are_refused_by_the_constructor(optimizer, views, refused):
    create = getattr(rmsprop, optimizer)
    base = np.arange(12.0)
    first, second = views(base)
    with refused(ValueError, shares_memory("params[0]", "params[1]"), base):
        create([first, second])
    with refused(ValueError, shares_memory("params['a']", "params['b']"), base):
        create({"a": first, "b": second})
    with refused(ValueError, shares_memory("params[0]", "params[2]"), base):
        create([{"params": [first, np.ones(2)]}, {"params": second}])


def test_gradient_that_shares_memory_is_found_after_good_steps(refused):
    """A step remembers that its arrays were apart; another gradient must be looked at all the same."""
    params, grads = [np.ones(8), np.ones(8)], [np.ones(8), np.ones(8)]
    optimizer = rmsprop.RMSprop(params)
    for _ in range(3):
        optimizer.step(grads)
    with refused(ValueError, shares_memory("params[0]", "grads[1]"), optimizer, grads):
        optimizer.step([grads[0], params[0]])
    optimizer.step(grads)
    with refused(ValueError, shares_memory("state[1]['square_avg']", "grads[0]"), optimizer, grads):
        optimizer.step([optimizer.state[1]["square_avg"], grads[1]])


def test_gradient_that_shares_memory_is_found_after_a_refused_step(refused):
    """What a refused step saw of its arrays, before it found the one at fault, is no proof that they were apart."""
    params, grads = [np.ones(8), np.ones(8)], [np.ones(8), np.ones(8)]
    optimizer = rmsprop.RMSprop(params)
    optimizer.step(grads)
    for wrong in (np.ones(7), np.ones(8, np.float32), "no array"):
        with refused((TypeError, ValueError), re.compile(r"grads\[1\]: .+"), optimizer, grads):
            optimizer.step([params[1], wrong])
        with refused(ValueError, shares_memory("params[1]", "grads[0]"), optimizer, grads):
            optimizer.step([params[1], grads[1]])
    optimizer.step(grads)


def test_gradient_that_shares_memory_is_found_after_steps_with_fewer_gradients(refused):
    params, grads = [np.ones(8) for _ in range(3)], [np.ones(8) for _ in range(3)]
    optimizer = rmsprop.RMSprop(params)
    optimizer.step(grads)
    for fewer in ([grads[0], None, None], [None, None, grads[2]], [None] * 3):
        optimizer.step(fewer)
        with refused(ValueError, shares_memory("params[0]", "grads[2]"), optimizer, grads):
            optimizer.step([grads[0], grads[1], params[0]])
    stands_still = [None, params[0], None]  # the gradient is apart from all that is written
    optimizer.step(stands_still)
    with refused(ValueError, shares_memory("params[0]", "grads[1]"), optimizer, grads):
        optimizer.step([grads[0], *stands_still[1:]])


# ---- Containers ------------------------------------------------------------------------------------------------------

ANY_PARAMS = "an array, a sequence of arrays, a dict of them, or a list of group dicts"


# After `params`.
BAD_PARAMS = {
    "int": (lambda a, b: 5, TypeError, f": got int, wanted {ANY_PARAMS}"),
    "None": (lambda a, b: None, TypeError, f": got NoneType, wanted {ANY_PARAMS}"),
    "str": (lambda a, b: "weights", TypeError, f": got str, wanted {ANY_PARAMS}"),
    "bytes": (lambda a, b: b"weights", TypeError, f": got bytes, wanted {ANY_PARAMS}"),
    "empty list": (lambda a, b: [], ValueError, ": got nothing to optimize, wanted at least one array"),
    "empty dict": (lambda a, b: {}, ValueError, ": got nothing to optimize, wanted at least one array"),
    "empty iterator": (lambda a, b: iter(()), ValueError, ": got nothing to optimize, wanted at least one array"),
    "None among arrays": (lambda a, b: [a, None], TypeError, f"[1]: {not_an_array('NoneType')}"),
    "nested list": (lambda a, b: [a, [b]], TypeError, f"[1]: {not_an_array('list')}"),
    "group among arrays": (lambda a, b: [a, {"params": b}], TypeError, f"[1]: {not_an_array('dict')}"),
    "name that is no str": (lambda a, b: {"a": a, 1: b}, TypeError, ": got 1 as a name, wanted a str"),
    "empty group": (
        lambda a, b: [{"params": a}, {"params": []}],
        ValueError,
        ": got a group without arrays, wanted at least one in each group",
    ),
    "names in one group only": (
        lambda a, b: [{"params": {"a": a}}, {"params": [b]}],
        TypeError,
        ": either every group has a dict of named parameters, or none has",
    ),
    "one name in two groups": (
        lambda a, b: [{"params": {"a": a}}, {"params": {"a": b}}],
        ValueError,
        ": 'a' names two parameters",
    ),
}


@pytest.mark.parametrize(("make", "kind", "message"), BAD_PARAMS.values(), ids=BAD_PARAMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parameters_in_a_wrong_container_are_refused(optimizer, make, kind, message, refused):
    a, b = np.ones(3), np.ones(2)
    with refused(kind, f"params{message}", a, b):
        getattr(rmsprop, optimizer)(make(a, b))


@pytest.mark.parametrize("params", [5, None, 1.5])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_group_of_something_else_than_arrays_is_refused(optimizer, params, refused):
    a = np.ones(3)
    message = re.compile(rf"(param_groups\[1\]: )?params: got {type(params).__name__}, wanted .+")
    with refused(TypeError, message, a):
        getattr(rmsprop, optimizer)([{"params": a}, {"params": params}])
    with refused(TypeError, "param_groups: got dict, wanted a dict with 'params'", a):
        getattr(rmsprop, optimizer)([{"params": a}, {"lr": 0.1}])


def not_a_sequence(found):
    return f": got {found}, wanted a sequence of arrays, one for each parameter"


def not_a_dict(found):
    return f": got {found}, wanted a dict with the names of the parameters"


# What the parameters are in, and the message after `grads`.
ONE_ARRAY = "wanted one numpy.ndarray, since the parameter is one array, too, in no list or dict"

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


# ---- Hyperparameters -------------------------------------------------------------------------------------------------

FUNCTION = {"RMSprop": "rmsprop_", "Adagrad": "adagrad_"}

BAD_VALUES = (-0.001, math.nan, math.inf, -math.inf)
NOT_NUMBERS = {
    "str": "0.1",
    "bytes": b"1",
    "NoneType": None,
    "complex": 1j,
    "bool": True,
    f"numpy.{np.bool_.__name__}": np.True_,
    "list": [0.1],
    "numpy.ndarray": np.array(0.1),
    "decimal.Decimal": decimal.Decimal("0.1"),
    "numpy.complex64": np.complex64(1),
}
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
    [(o, name) for o in OPTIMIZERS for name in (*NUMBERS[o], *FLAGS[o]) if name != "initial_accumulator_value"],
)
def test_hyperparameter_deleted_from_a_group_is_missed(optimizer, name, refused):
    subject = Subject(optimizer)
    del subject.optimizer.param_groups[0][name]
    with refused(ValueError, f"{name}: missing from the parameter group", *subject.watched()):
        subject.step()


CHANGED_GROUPS = {
    "no params": lambda groups: groups[0].pop("params"),
    "tuple of params": lambda groups: groups[0].update(params=tuple(groups[0]["params"])),
    "None for params": lambda groups: groups[0].update(params=None),
    "one more parameter": lambda groups: groups[0]["params"].append(np.ones(3, np.float32)),
    "one parameter less": lambda groups: groups[0]["params"].pop(),
    "no parameters": lambda groups: groups[0]["params"].clear(),
    "None for a group": lambda groups: groups.append(None),
    "a group twice": lambda groups: groups.append(dict(groups[0])),
    "no groups": lambda groups: groups.clear(),
    "list for a group": lambda groups: groups.__setitem__(0, list(groups[0])),
}


@pytest.mark.parametrize("change", CHANGED_GROUPS.values(), ids=CHANGED_GROUPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_groups_changed_by_hand_are_refused_by_name(optimizer, change, refused):
    subject = Subject(optimizer)
    arrays = list(subject.arrays["params"])
    state = [dict(entry) for entry in subject.optimizer.state.values()]
    change(subject.optimizer.param_groups)
    with refused((TypeError, ValueError), re.compile(r"param_groups\b.*"), arrays, state, subject.grads):
        subject.step()


@pytest.mark.parametrize("groups", [None, (), 5, {}])
def test_param_groups_replaced_by_something_else_are_refused_by_name(groups, refused):
    subject = Subject("Adagrad")
    message = re.compile(f"param_groups: got {type(groups).__name__}, wanted .+")
    with refused(TypeError, message, subject.arrays, subject.grads):
        subject.optimizer.param_groups = groups
        subject.step()


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


def accumulator_of(optimizer):
    return optimizer.state_names[0]


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


# ---- Threads and re-entrance -----------------------------------------------------------------------------------------

BUSY = "step: this optimizer is in the middle of another step, of another thread or of the caller itself"


class Waiting:
    """A schedule that, once armed, stops in the middle of a step until it is let go."""

    def __init__(self):
        self.armed = False
        self.entered, self.leave = threading.Event(), threading.Event()

    def __call__(self, step):
        if self.armed:
            self.armed = False
            self.entered.set()
            assert self.leave.wait(30)
        return 0.1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_second_thread_in_one_optimizer_is_refused_and_the_first_one_completes(optimizer, refused):
    rng = np.random.default_rng(0)
    param, grad = rng.standard_normal(300_000), rng.standard_normal(300_000)
    expected, accumulator = param.copy(), np.zeros_like(param)
    waiting = Waiting()
    optimizer = getattr(rmsprop, optimizer)(param, lr=waiting)
    waiting.armed = True
    thread = threading.Thread(target=optimizer.step, args=[grad])
    thread.start()
    try:
        assert waiting.entered.wait(30)
        with refused(RuntimeError, BUSY, optimizer, grad):
            optimizer.step(grad)
        with refused(RuntimeError, BUSY, optimizer, grad):
            optimizer.step(grad, grad_scale=2.0)
    finally:
        waiting.leave.set()
        thread.join(30)
    assert not thread.is_alive()
    rule = reference.rmsprop_ if isinstance(optimizer, rmsprop.RMSprop) else reference.adagrad_
    rule(expected, grad, accumulator, lr=0.1)
    assert_same_bits(param, expected)
    assert_same_bits(optimizer.state[0][accumulator_of(optimizer)], accumulator)
    assert optimizer.state[0]["step"] == 1


def test_threads_that_fight_for_one_optimizer_leave_whole_steps():
    rng = np.random.default_rng(0)
    param, grad = rng.standard_normal((2, 150_000), np.float32)
    expected, square_avg = param.copy(), np.zeros_like(param)
    optimizer = rmsprop.RMSprop(param, lr=0.1)
    completed, other_errors = [], []

    def fight():
        for _ in range(15):
            try:
                optimizer.step(grad)
                completed.append(1)
            except RuntimeError as error:
                if str(error) != BUSY:
                    other_errors.append(error)

    threads = [threading.Thread(target=fight) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not other_errors
    assert optimizer.state[0]["step"] == len(completed) >= 15
    for _ in completed:
        reference.rmsprop_(expected, grad, square_avg, lr=0.1)
    assert_same_bits(param, expected)
    assert_same_bits(optimizer.state[0]["square_avg"], square_avg)


def test_optimizers_of_their_own_in_several_threads_give_the_bits_of_one_thread():
    rng = np.random.default_rng(0)
    prepared = {"lr": 0.1, "weight_decay": 0.01}
    grads = [rng.standard_normal(size) for size in (60_000, 7, 90_000)]
    params = [[np.full_like(grad, thread) for grad in grads] for thread in range(3)]
    expected = [[param.copy() for param in own] for own in params]

    def train(own):
        optimizer = rmsprop.RMSprop(own, **prepared)
        for _ in range(20):
            optimizer.step(grads, grad_scale=0.5)

    threads = [threading.Thread(target=train, args=[own]) for own in params]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for own, wanted in zip(params, expected, strict=True):
        for param, expected_param, grad in zip(own, wanted, grads, strict=True):
            square_avg = np.zeros_like(grad)
            for _ in range(20):
                reference.rmsprop_(expected_param, grad, square_avg, grad_scale=0.5, **prepared)
            assert_same_bits(param, expected_param)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_step_within_a_step_is_refused(optimizer, refused):
    """Whether the schedule lets the exception through or goes on without the inner step."""
    param, grad = np.ones(8), np.ones(8)
    armed = False

    def schedule(step):
        if armed:
            optimizer.step(grad)
        return 0.1

    optimizer = getattr(rmsprop, optimizer)(param, lr=schedule)
    armed = True
    with refused(RuntimeError, BUSY, optimizer, grad):
        optimizer.step(grad)
    armed = False
    optimizer.step(grad)
    assert optimizer.state[0]["step"] == 1

    caught = []

    def catching_schedule(step):
        with pytest.raises(RuntimeError) as error:
            optimizer.step(grad)
        caught.append(str(error.value))
        return 0.1

    optimizer.lr = catching_schedule
    optimizer.step(grad)
    assert caught == [BUSY]
    assert optimizer.state[0]["step"] == 2


def test_step_while_another_one_allocates_state_is_refused_or_taken_whole():
    """The first step with momentum stops in the middle for a buffer, and there another one may want to begin."""

    class Meddler(np.ndarray):
        def __array_function__(self, function, types, args, kwargs):
            if meddle:
                meddle.pop()()
            return super().__array_function__(function, types, args, kwargs)

    def take_step(scale):
        try:
            optimizer.step(grad, grad_scale=scale)
            taken.append(scale)
        except RuntimeError as error:
            refused.append(str(error))

    grad, meddle, taken, refused = np.full(8, 0.5), [], [], []
    expected, square_avg, momentum_buffer = np.ones(8), np.zeros(8), np.zeros(8)
    param = np.ones(8)
    optimizer = rmsprop.RMSprop(param.view(Meddler), lr=0.1)
    optimizer.param_groups[0]["momentum"] = 0.9
    meddle.append(lambda: take_step(2.0))
    take_step(1.0)
    meddle.clear()  # an optimizer may well allocate without asking
    take_step(0.5)
    for scale in taken:
        reference.rmsprop_(
            expected, grad, square_avg, lr=0.1, momentum=0.9, momentum_buffer=momentum_buffer, grad_scale=scale
        )
    assert refused in ([], [BUSY])
    assert optimizer.state[0]["step"] == len(taken) >= 2
    assert_same_bits(param, expected)
    assert_same_bits(optimizer.state[0]["momentum_buffer"], momentum_buffer)


def test_schedule_cannot_add_a_group_in_the_middle_of_a_step(refused):
    param, grad = np.ones(8), np.ones(8)
    armed = False

    def schedule(step):
        if armed:
            optimizer.add_param_group({"params": [np.ones(3)]})
        return 0.1

    optimizer = rmsprop.RMSprop([param], lr=schedule)
    armed = True
    with refused(RuntimeError, BUSY.replace("step", "add_param_group", 1), optimizer, grad):
        optimizer.step([grad])
    assert len(optimizer.param_groups) == 1


SCHEDULED_CHANGES = {
    "appends a parameter": lambda groups: groups[0]["params"].append(np.ones(5)),
    "removes a parameter": lambda groups: groups[0]["params"].pop(),
    "removes all parameters": lambda groups: groups[0]["params"].clear(),
    "replaces the parameters": lambda groups: groups[0].update(params=[]),
    "replaces the parameters by None": lambda groups: groups[0].update(params=None),
    "clears its group": lambda groups: groups[0].clear(),
    "removes the last group": lambda groups: groups.pop(),
    "removes its own group": lambda groups: groups.pop(0),
    "removes all groups": lambda groups: groups.clear(),
    "adds a group": lambda groups: groups.append({**groups[0], "lr": 0.1, "params": [np.ones(5)]}),
    "doubles a group": lambda groups: groups.insert(0, groups[1]),
}


@pytest.mark.parametrize("change", SCHEDULED_CHANGES.values(), ids=SCHEDULED_CHANGES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_schedule_that_changes_what_is_optimized_fails_the_step(optimizer, change, refused):
    arrays = [np.ones(200_000) for _ in range(4)]
    grads = [np.ones(200_000) for _ in range(4)]
    armed = False

    def schedule(step):
        if armed:
            change(optimizer.param_groups)
        return 0.1

    groups = [{"params": arrays[:2], "lr": schedule}, {"params": arrays[2:]}]
    optimizer = getattr(rmsprop, optimizer)(groups)
    optimizer.step(grads)
    state = [dict(entry) for entry in optimizer.state.values()]
    armed = True
    with refused((TypeError, ValueError), re.compile(r"param_groups\b.+"), arrays, state):
        optimizer.step(grads)
    assert [entry["step"] for entry in optimizer.state.values()] == [1] * 4


@pytest.mark.parametrize("kind", [list, dict])
def test_schedule_that_removes_gradients_fails_the_step(kind, refused):
    params = {"a": np.ones(200_000), "b": np.ones(200_000)}
    grads = {"a": np.ones(200_000), "b": np.ones(200_000)}
    if kind is list:
        params, grads = list(params.values()), list(grads.values())
    armed = False

    def schedule(step):
        if armed:
            grads.clear()
        return 0.1

    optimizer = rmsprop.RMSprop(params, lr=schedule)
    armed = True
    with refused(ValueError, re.compile("grads: (got 0 gradients|nothing for parameter 'a').*"), optimizer):
        optimizer.step(grads)
