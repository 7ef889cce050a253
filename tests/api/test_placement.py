"""Where new state lies: apart in a page, so that no load waits for a store that has nothing to do with it."""

import copy
from itertools import combinations

import numpy as np
import pytest

import rmsprop
from rmsprop._optimizer.allocation import DISTANCES, empty_state

PAGE, CACHE_LINE = 4096, 64


def parameters(size=100_000):
    """Two arrays a few bytes apart in a page, as malloc gives them, and one in an order of its own."""
    memory = np.zeros(2 * size + PAGE, np.float32)
    fitting = size // (PAGE // 4) * (PAGE // 4)  # whole pages
    return [
        memory[4 : 4 + fitting],
        memory[fitting + 8 : 2 * fitting + 8],
        np.asfortranarray(np.zeros((size // 100, 100), np.float64)),
        np.zeros((100, size // 100, 2), np.float32).transpose(1, 2, 0),
    ]


def distance_in_a_page(one, other):
    apart = (one.ctypes.data - other.ctypes.data) % PAGE
    return min(apart, PAGE - apart)


@pytest.mark.parametrize("reloaded", [False, True])
def test_the_state_of_large_parameters_lies_apart_from_them_in_a_page(reloaded):
    params = parameters()
    optimizer = rmsprop.RMSprop(params, lr=0.1, centered=True, momentum=0.9)
    if reloaded:
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for index, param in enumerate(params):
        state = [array for name, array in optimizer.state[index].items() if name != "step"]
        assert len(state) == 3
        assert all(array.ctypes.data % CACHE_LINE == 0 for array in state)
        assert all(distance_in_a_page(one, other) > PAGE // 8 for one, other in combinations([param, *state], 2))


def test_every_kind_of_state_lies_apart_however_many_there_are():
    distances = list(DISTANCES[:7])
    assert distances[:3] == [PAGE // 2, PAGE // 4, 3 * PAGE // 4]
    assert all(distance % CACHE_LINE == 0 for distance in distances)
    apart = [abs(one - other) for one, other in combinations([0, *distances, PAGE], 2)]
    assert min(apart) == PAGE // 8
    param = np.zeros(100_000)
    for place in range(63):
        assert empty_state(param, place).shape == param.shape


def test_state_is_dense_and_in_the_order_of_its_parameter():
    params = parameters()
    optimizer = rmsprop.Adagrad(params, lr=0.1, initial_accumulator_value=0.5)
    for index, param in enumerate(params):
        array = optimizer.state[index]["sum"]
        expected = np.empty_like(param, order="K")
        assert (array.shape, array.strides, array.dtype) == (expected.shape, expected.strides, expected.dtype)
        assert np.all(array == 0.5)
        assert array.flags.writeable
        assert type(array) is np.ndarray


@pytest.mark.parametrize(("size", "extra"), [(1_000, 0), (20_000, PAGE)])
def test_state_takes_at_most_a_page_more_than_its_elements(size, extra):
    optimizer = rmsprop.RMSprop([np.zeros(size, np.float32)], lr=0.1)
    array = optimizer.state[0]["square_avg"]
    memory = array if array.base is None else array.base
    assert memory.nbytes == 4 * size + extra
