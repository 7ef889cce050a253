"""Arrays that share memory with one that is written are refused by name, and nothing is written."""

import re
from typing import Any, NamedTuple

import numpy as np
import pytest

import rmsprop
from bad_input import GOOD, INTERFACES, OPTIMIZERS, SPOILED, STATE, Subject, accumulator_of, shares_memory

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
