"""A second step of an optimizer in the middle of one is refused, and the first one completes."""

import threading

import numpy as np
import pytest

import rmsprop
from bad_input import BUSY, OPTIMIZERS, accumulator_of
from bits import assert_same_bits
from rmsprop import reference


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
