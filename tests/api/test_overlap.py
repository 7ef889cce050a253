"""Whether the arrays of a step share memory is proven once, exactly, and in time that grows about as they do."""

from time import perf_counter

import numpy as np
import pytest

import rmsprop
from bits import assert_same_bits

REFUSED = "shares memory with"


def rows(count, length=8):
    """Return arrays that lie in one memory, one directly after the other."""
    return list(np.ones((count, length)))


def refuses(optimizer, grads):
    """Tell whether a step is refused because arrays share memory; nothing may have changed then."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    before = [param.copy() for param in params]
    try:
        optimizer.step(grads)
    except ValueError as error:
        message = str(error)
    else:
        return False
    assert REFUSED in message
    for param, copy in zip(params, before, strict=True):
        assert_same_bits(param, copy)
    return True


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_parameter_as_the_gradient_of_a_neighbour_that_it_touches_is_refused(count, place):
    params = rows(count)
    optimizer = rmsprop.RMSprop(params)
    grads = [np.ones(8) for _ in params]
    target, used = (0, 1) if place == "first" else (count - 1, count - 2)
    grads[target] = params[used]
    assert refuses(optimizer, grads)
    grads[target] = params[target]
    assert refuses(optimizer, grads)


@pytest.mark.parametrize("bytes_shared", [1, 7, 8])
@pytest.mark.parametrize("before", [True, False])
def test_a_gradient_that_reaches_into_a_parameter_by_a_single_element_is_refused(bytes_shared, before):
    memory = np.zeros(400, np.uint8)
    param = memory[160:240].view(np.float64)
    begin = 160 - 80 + bytes_shared if before else 240 - bytes_shared
    grad = memory[begin : begin + 80].view(np.float64)
    assert np.shares_memory(param, grad)
    assert refuses(rmsprop.RMSprop([param]), [grad])
    begin = 160 - 80 if before else 240
    assert not refuses(rmsprop.RMSprop([param]), [memory[begin : begin + 80].view(np.float64)])


def test_a_gradient_in_a_large_parameter_that_begins_long_before_other_parameters_is_refused():
    memory = np.ones(10_000)
    outer = memory.reshape(100, 100)[:, :50]
    inner = [memory.reshape(100, 100)[i, 50:] for i in range(100)]  # in the gaps of the other
    optimizer = rmsprop.RMSprop([outer, *inner])
    grads = [np.ones((100, 50)), *(np.ones(50) for _ in inner)]
    assert not refuses(optimizer, grads)
    grads[77] = outer[99]
    assert refuses(optimizer, grads)


def test_only_the_written_array_that_is_not_the_next_neighbour_may_be_the_one_that_overlaps():
    memory = np.ones(64)
    params = [memory[0:40], memory[50:55], memory[56:64]]
    with pytest.raises(ValueError, match=REFUSED):
        rmsprop.RMSprop([memory[0:40], memory[41:45], memory[30:36]])
    optimizer = rmsprop.RMSprop(params)
    assert refuses(optimizer, [np.ones(40), np.ones(5), memory[38:46]])


def test_an_array_in_a_gap_of_another_does_not_hide_one_that_overlaps_it_later():
    memory = np.ones(64)
    rmsprop.RMSprop([memory[::2], memory[1:2], memory[41:42]])
    with pytest.raises(ValueError, match=REFUSED):
        rmsprop.RMSprop([memory[::2], memory[1:2], memory[40:41]])


def test_a_gradient_that_touches_a_parameter_in_a_gap_of_another_is_taken():
    memory = np.ones(64)
    optimizer = rmsprop.RMSprop([memory[::4], memory[1:2]])
    assert not refuses(optimizer, [np.ones(16), memory[2:3]])
    assert refuses(optimizer, [np.ones(16), memory[4:5]])


def test_a_proof_ends_when_an_array_is_replaced():
    params = rows(3)
    optimizer = rmsprop.RMSprop(params)
    grads = [np.ones(8) for _ in params]
    for _ in range(2):
        assert not refuses(optimizer, grads)
    optimizer.param_groups[0]["params"][1] = grads[2]  # of the shape that it should have
    assert refuses(optimizer, grads)
    optimizer.param_groups[0]["params"][1] = params[1]
    assert not refuses(optimizer, grads)
    optimizer.state[1]["square_avg"] = params[0]
    assert refuses(optimizer, grads)
    optimizer.state[1]["square_avg"] = np.zeros(8)
    assert not refuses(optimizer, grads)
    for _ in range(2):  # a refusal proves nothing either
        assert refuses(optimizer, [grads[0], grads[1], params[0]])
    assert not refuses(optimizer, grads)


def test_a_proof_ends_when_strides_change():
    matrix = np.ones((8, 8))
    optimizer = rmsprop.RMSprop([matrix[:, 0], matrix[:, 1]])
    grads = [np.ones(8), np.ones(8)]
    assert not refuses(optimizer, grads)
    flat = matrix.reshape(-1)
    optimizer.param_groups[0]["params"][0] = flat[0:24:3]  # from the same place, and with the other's second element
    assert refuses(optimizer, grads)
    optimizer.param_groups[0]["params"][0] = matrix[:, 0]
    assert not refuses(optimizer, grads)
    assert refuses(optimizer, [np.ones(8), flat[7:15]])


def test_a_step_with_fewer_gradients_proves_nothing_of_the_others():
    params = rows(3)
    optimizer = rmsprop.RMSprop(params)
    grads = [np.ones(8) for _ in params]
    assert not refuses(optimizer, grads)
    assert not refuses(optimizer, [grads[0], None, grads[2]])
    assert refuses(optimizer, [grads[0], params[2], grads[2]])


@pytest.mark.parametrize("width", [1, 2])
def test_columns_of_one_matrix_are_apart_unless_they_are_the_same(width):
    matrix = np.ones((4, 12))
    columns = [matrix[:, i : i + width] for i in range(0, 12, width)]
    optimizer = rmsprop.Adagrad(columns)
    grads = [np.ones((4, width)) for _ in columns]
    assert not refuses(optimizer, grads)
    assert refuses(optimizer, [*grads[:-1], columns[0]])
    with pytest.raises(ValueError, match=REFUSED):
        rmsprop.Adagrad([*columns, matrix[:, -1:]])
    with pytest.raises(ValueError, match=REFUSED):
        rmsprop.Adagrad([matrix[:, 1:3], matrix[:, 3:5], matrix[:, 2:4]])
    # Around the end of a row: the last column of a row and the first of the next.
    wide = np.ones(48 + 12)
    first, last, longer = (wide[i : i + 48].reshape(4, 12)[:, :count] for i, count in ((0, 1), (11, 1), (11, 2)))
    rmsprop.Adagrad([first, last])
    with pytest.raises(ValueError, match=REFUSED):
        rmsprop.Adagrad([first, longer])


def parts_that_only_numpy_can_tell_apart():
    memory = np.ones(9)
    return [memory[0:8:4], memory[3:9:3]]


def test_what_numpy_cannot_decide_counts_as_an_overlap(monkeypatch):
    def shares_memory(*arguments):
        raise np.exceptions.TooHardError

    rmsprop.RMSprop(parts_that_only_numpy_can_tell_apart())
    monkeypatch.setattr(np, "shares_memory", shares_memory)
    with pytest.raises(ValueError, match=REFUSED):
        rmsprop.RMSprop(parts_that_only_numpy_can_tell_apart())


def test_arrays_that_change_while_numpy_is_asked_are_not_stepped(monkeypatch):
    def shares_memory(*arguments):
        average.resize(1, refcheck=False)
        return False

    params = parts_that_only_numpy_can_tell_apart()
    optimizer = rmsprop.RMSprop(params)
    average = optimizer.state[0]["square_avg"]
    monkeypatch.setattr(np, "shares_memory", shares_memory)
    with pytest.raises(RuntimeError, match="arrays were replaced or resized by other code"):
        optimizer.step([np.ones(2), np.ones(2)])
    assert [param.tolist() for param in params] == [[1, 1], [1, 1]]


def seconds(step, rounds=5):
    """Return the least time of a few steps."""
    step()
    times = []
    for _ in range(rounds):
        began = perf_counter()
        step()
        times.append(perf_counter() - began)
    return min(times)


def time_of_a_step(params):
    optimizer = rmsprop.RMSprop(params, num_threads=1)
    return seconds(lambda: optimizer.step([np.ones(param.shape) for param in params]))


def test_an_interleaved_pair_among_many_parameters_costs_what_a_pair_costs():
    many = [np.ones(8) for _ in range(4000)]
    matrix = np.ones((8, 2))
    plain = time_of_a_step([*many, np.ones(8), np.ones(8)])
    assert time_of_a_step([*many, matrix[:, 0], matrix[:, 1]]) < 10 * plain  # it was 158 times as much


def test_many_columns_of_one_matrix_cost_in_proportion_to_their_number():
    def time_of(columns):
        return time_of_a_step(list(np.ones((4, columns)).T))

    assert time_of(4000) < 6 * 4 * time_of(1000)  # with the square, 16 times and more
