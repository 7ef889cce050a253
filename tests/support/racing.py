"""Programs in which threads step optimizers and change, at the same time, whatever a step looks at.

Each is meant for a process of its own: `python -c "import racing; racing.run(NAME)"`. Gradients are the same numbers in
every step, so what a parameter and its state have to be after so many steps is known beforehand. With an instrumented
engine, as the sanitizers have it, everything is slow: SECONDS bounds each program, whatever it gets done.
"""

import copy
import faulthandler
import itertools
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import rmsprop
from rmsprop import _core, reference

SECONDS = float(os.environ.get("RMSPROP_RACING_SECONDS", "1.5"))
ROUNDS = 3000
SIZE = 3000
"""Elements: enough that a step on two threads is one on two threads, few enough for many steps."""
PROGRAMS = {}


def program(function):
    PROGRAMS[function.__name__] = function
    return function


def run(name):
    """Run a program; one that hangs ends, and shows where each thread is."""
    faulthandler.dump_traceback_later(SECONDS + 100, exit=True)
    sys.setswitchinterval(1e-5)  # with the GIL, threads take turns as often as they can
    PROGRAMS[name]()
    print("came to its end")


def numbers(seed, size=SIZE):
    return np.random.default_rng(seed).standard_normal(size)


def refused(call, *arguments, **more):
    """Call, and tell whether it was refused because the optimizer was busy."""
    try:
        call(*arguments, **more)
    except RuntimeError:
        return True
    return False


def together(*functions):
    """Run functions over and over, each in a thread of its own, until the time or the rounds are over."""
    errors = []
    begin = threading.Barrier(len(functions))

    def repeat(function):
        try:
            begin.wait()
            end = time.monotonic() + SECONDS
            for _ in range(ROUNDS):
                function()
                if errors or time.monotonic() > end:
                    break
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=[function], daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Table:
    """What a parameter and its average are after each number of steps with one gradient, from the reference."""

    def __init__(self, param, grad, **options):
        self.states = [(param.copy(), np.zeros_like(param))]
        self.grad = grad
        self.options = {"lr": 0.01, **options}

    def __getitem__(self, steps):
        while len(self.states) <= steps:
            param, average = (array.copy() for array in self.states[-1])
            reference.rmsprop_(param, self.grad, average, **self.options)
            self.states.append((param, average))
        return self.states[steps]


def same(actual, expected):
    return actual.tobytes() == expected.tobytes()


def is_one_of(found, allowed):
    """Tell whether some arrays have, all together, the bits of one of the allowed outcomes."""
    return any(all(map(same, found, outcome)) for outcome in allowed)


def stepped(param, average, grad, **options):
    """Return what a step makes of a parameter and its average."""
    param, average = param.copy(), average.copy()
    reference.rmsprop_(param, grad, average, **{"lr": 0.01, **options})
    return param, average


# ---- Optimizers of their own -----------------------------------------------------------------------------------------


def separate_optimizers(count):
    tables = [Table(numbers(seed), numbers(100 + seed)) for seed in range(count)]
    params = [table[0][0].copy() for table in tables]
    optimizers = [rmsprop.RMSprop(param, lr=0.01, num_threads=1 + seed % 2) for seed, param in enumerate(params)]
    together(*[lambda o=o, t=t: o.step(t.grad) for o, t in zip(optimizers, tables, strict=True)])
    for optimizer, table, param in zip(optimizers, tables, params, strict=True):
        steps = optimizer.state[0]["step"]
        assert steps > 0
        assert is_one_of([param, optimizer.state[0]["square_avg"]], [table[steps]])


@program
def two_threads_step_separate_optimizers():
    separate_optimizers(2)


@program
def many_threads_step_separate_optimizers():
    separate_optimizers(6)


@program
def threads_make_and_drop_optimizers_of_their_own():
    table = Table(numbers(0), numbers(1))

    def live():
        param = table[0][0].copy()
        optimizer = rmsprop.RMSprop({"w": param}, lr=0.01)
        for _ in range(3):
            optimizer.step({"w": table.grad})
        assert is_one_of([param, optimizer.state["w"]["square_avg"]], [table[3]])

    table[3]
    together(live, live, live)


@program
def threads_share_gradients_that_no_step_writes():
    table = Table(numbers(0), numbers(1))
    grad = table.grad.copy()
    params = [table[0][0].copy() for _ in range(3)]
    optimizers = [rmsprop.RMSprop(param, lr=0.01) for param in params]
    together(*[lambda o=o: o.step(grad) for o in optimizers])
    assert same(grad, table.grad)
    for optimizer, param in zip(optimizers, params, strict=True):
        assert is_one_of([param], [table[optimizer.state[0]["step"]][:1]])


@program
def functions_step_in_many_threads():
    table = Table(numbers(0), numbers(1))

    def live():
        param, average = (array.copy() for array in table[0])
        rmsprop.functional.rmsprop_(param, table.grad, average, lr=0.01)
        assert is_one_of([param, average], [table[1]])

    table[1]
    together(live, live, live)


# ---- One optimizer ---------------------------------------------------------------------------------------------------


class Stepped:
    """An optimizer whose steps are counted: those that were taken, and those that were refused."""

    def __init__(self, count=2, **options):
        self.tables = [Table(numbers(seed), numbers(100 + seed)) for seed in range(count)]
        self.params = [table[0][0].copy() for table in self.tables]
        self.grads = [table.grad for table in self.tables]
        self.optimizer = rmsprop.RMSprop(list(self.params), lr=0.01, **options)
        self.taken = itertools.count()  # whose next is atomic

    def step(self):
        if not refused(self.optimizer.step, self.grads):
            next(self.taken)

    def check(self, steps=None):
        """Check that all parameters took as many steps as were counted, and have the bits of that."""
        steps = next(self.taken) if steps is None else steps
        assert steps > 0
        for index, (param, table) in enumerate(zip(self.params, self.tables, strict=True)):
            entry = self.optimizer.state[index]
            assert entry["step"] == steps, (entry["step"], steps)
            assert is_one_of([param, entry["square_avg"]], [table[steps]])


@program
def two_threads_step_one_optimizer():
    shared = Stepped()
    together(shared.step, shared.step)
    shared.check()


@program
def many_threads_step_one_optimizer():
    shared = Stepped(num_threads=2)
    together(*[shared.step] * 5)
    shared.check()


@program
def threads_step_one_optimizer_that_skips_what_is_not_finite():
    shared = Stepped(nonfinite="skip")
    bad = [np.full(SIZE, np.nan)] * 2
    skipped = itertools.count()

    def skip():
        if not refused(shared.optimizer.step, bad):
            next(skipped)

    together(shared.step, skip)
    shared.check()
    assert shared.optimizer.skipped_steps == next(skipped)


@program
def settings_change_while_threads_step():
    shared = Stepped()
    choices = itertools.cycle([(1, "propagate"), (2, "skip"), (None, "raise")])

    def change():
        shared.optimizer.num_threads, shared.optimizer.nonfinite = next(choices)
        assert shared.optimizer.skipped_steps == 0
        repr(shared.optimizer)

    together(shared.step, shared.step, change)
    shared.check()


@program
def the_number_of_threads_changes_while_threads_step():
    shared, other = Stepped(), Stepped()
    choices = itertools.cycle([1, 2, 3])

    def change():
        rmsprop.set_num_threads(next(choices))
        assert rmsprop.get_num_threads() in (1, 2, 3)

    together(shared.step, other.step, change)
    shared.check()
    other.check()


@program
def the_instruction_set_changes_while_threads_step():
    shared, other = Stepped(), Stepped()
    available = rmsprop.instruction_sets().available
    choices = itertools.cycle(available)

    def change():
        _core.use_instruction_set(next(choices))
        assert rmsprop.instruction_sets().chosen in available

    together(shared.step, other.step, change)
    shared.check()
    other.check()


# ---- What a step looks at is replaced --------------------------------------------------------------------------------


def checked_steps(optimizer, grads, arrays, outcomes, change):
    """Step in one thread and change things in another; every step has one of the outcomes, or none if it was refused.

    `arrays` returns all arrays that a step may write; `outcomes(before)` what it may have made of them.
    """

    def step():
        before = [array.copy() for array in arrays]
        try:
            optimizer.step(grads)
        except (RuntimeError, ValueError, TypeError):
            assert is_one_of(arrays, [before])
        else:
            assert is_one_of(arrays, outcomes(before))

    together(step, change)


@program
def gradients_are_replaced():
    param, choices = numbers(0), [numbers(1), numbers(2)]
    optimizer = rmsprop.RMSprop([param], lr=0.01)
    optimizer.step([choices[0]])
    average, grads, turn = optimizer.state[0]["square_avg"], [choices[0]], itertools.cycle(choices)

    def change():
        grads[0] = next(turn)

    checked_steps(optimizer, grads, [param, average], lambda b: [stepped(*b, grad) for grad in choices], change)


@program
def gradients_are_taken_away_and_dropped():
    params = [numbers(0), numbers(1)]
    optimizer = rmsprop.RMSprop(params, lr=0.01)
    optimizer.step([np.ones(SIZE), np.ones(SIZE)])
    averages, grads = [optimizer.state[i]["square_avg"] for i in (0, 1)], [np.ones(SIZE), np.ones(SIZE)]
    after = lambda b: [*stepped(b[0], b[2], np.ones(SIZE)), *stepped(b[1], b[3], np.ones(SIZE))]  # noqa: E731

    def change():
        grads.pop()
        grads.append(np.ones(SIZE))
        grads[0] = None
        grads[0] = np.ones(SIZE)

    def outcomes(before):
        one, one_avg, two, two_avg = after(before)
        return [[one, two, one_avg, two_avg], [before[0], two, before[2], two_avg]]

    checked_steps(optimizer, grads, [*params, *averages], outcomes, change)


@program
def gradients_in_a_dict_are_replaced():
    param, choices = numbers(0), [numbers(1), numbers(2)]
    optimizer = rmsprop.RMSprop({"w": param}, lr=0.01)
    optimizer.step({"w": choices[0]})
    average, grads, turn = optimizer.state["w"]["square_avg"], {"w": choices[0]}, itertools.cycle(choices)

    def change():
        grads["w"] = next(turn)
        grads["other"] = grads["w"]
        del grads["other"]
        grads.clear()
        grads["w"] = next(turn)

    checked_steps(optimizer, grads, [param, average], lambda b: [stepped(*b, grad) for grad in choices], change)


@program
def parameters_are_replaced():
    params, grad = [numbers(0), numbers(1)], numbers(2)
    optimizer = rmsprop.RMSprop([params[0]], lr=0.01)
    optimizer.step([grad])
    average, listed, turn = (
        optimizer.state[0]["square_avg"],
        optimizer.param_groups[0]["params"],
        itertools.cycle(params),
    )

    def change():
        listed[0] = next(turn)

    def outcomes(before):
        (one, avg), (two, also) = stepped(before[0], before[2], grad), stepped(before[1], before[2], grad)
        assert same(avg, also)
        return [[one, before[1], avg], [before[0], two, avg]]

    checked_steps(optimizer, [grad], [*params, average], outcomes, change)


@program
def parameters_and_gradients_are_dropped_in_the_middle():
    grads = [np.ones(SIZE), np.ones(SIZE)]
    optimizer = rmsprop.RMSprop([np.zeros(SIZE), np.zeros(SIZE)], lr=0.01)
    listed = optimizer.param_groups[0]["params"]

    def step():
        try:
            optimizer.step(grads)
        except (RuntimeError, ValueError, TypeError):
            return

    def change():
        listed[:] = [np.zeros(SIZE), np.zeros(SIZE)]
        grads[:] = [np.ones(SIZE), np.ones(SIZE)]
        optimizer.state[0]["square_avg"] = np.zeros(SIZE)
        optimizer.param_groups[0]["params"] = listed

    together(step, step, change, change)


@program
def state_is_replaced():
    param, grad, averages = numbers(0), numbers(1), [np.abs(numbers(2)), np.abs(numbers(3))]
    optimizer = rmsprop.RMSprop([param], lr=0.01)
    optimizer.state[0]["square_avg"] = averages[0]
    turn = itertools.cycle(averages)

    def change():
        optimizer.state[0]["square_avg"] = next(turn)

    def outcomes(before):
        (param, one), (other, two) = stepped(before[0], before[1], grad), stepped(before[0], before[2], grad)
        return [[param, one, before[2]], [other, before[1], two]]

    checked_steps(optimizer, [grad], [param, *averages], outcomes, change)


@program
def hyperparameters_are_changed():
    param, grad = numbers(0), numbers(1)
    optimizer = rmsprop.RMSprop([param], lr=0.01)
    optimizer.step([grad])
    average, group, turn = optimizer.state[0]["square_avg"], optimizer.param_groups[0], itertools.cycle([0.01, 0.02])

    def change():
        group["lr"] = next(turn)
        group["a note"] = 1  # a dict that grows moves its entries
        del group["a note"]
        optimizer.lr = next(turn)

    checked_steps(
        optimizer, [grad], [param, average], lambda b: [stepped(*b, grad, lr=lr) for lr in (0.01, 0.02)], change
    )


@program
def hyperparameters_that_need_more_state_are_changed():
    param, grad = numbers(0), numbers(1)
    optimizer = rmsprop.RMSprop([param], lr=0.01)
    group, turn = optimizer.param_groups[0], itertools.cycle([0.0, 0.9])

    def step():
        try:
            optimizer.step([grad])
        except (RuntimeError, ValueError, TypeError):
            return

    def change():
        group["momentum"] = next(turn)
        group["centered"] = bool(group["momentum"])

    together(step, step, change)
    assert np.isfinite(param).all()


@program
def groups_are_added_and_replaced():
    grad = np.ones(10)
    optimizer = rmsprop.RMSprop([np.zeros(10)], lr=0.01)
    added = []

    def step():
        try:
            optimizer.step([grad] * sum(len(group["params"]) for group in optimizer.param_groups))
        except (RuntimeError, ValueError, TypeError):
            return

    def add():
        param = np.zeros(10)
        if len(added) < 100 and not refused(optimizer.add_param_group, {"params": [param]}):
            added.append(param)

    def replace():
        groups = optimizer.param_groups
        groups[0] = dict(groups[0])

    together(step, step, add, replace)
    table = Table(np.zeros(10), grad)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    assert len(params) == len(added) + 1
    for index, param in enumerate(params):
        assert is_one_of([param, optimizer.state[index]["square_avg"]], [table[optimizer.state[index]["step"]]])


# ---- Saving, loading, copying ----------------------------------------------------------------------------------------


@program
def state_dicts_are_taken_and_loaded():
    shared = Stepped()
    for _ in range(3):
        shared.optimizer.step(shared.grads)
    loaded = copy.deepcopy(shared.optimizer.state_dict())

    def load():
        refused(shared.optimizer.load_state_dict, loaded)

    def take():
        refused(shared.optimizer.state_dict)

    together(shared.step, load, take)
    entries = [shared.optimizer.state[index] for index in (0, 1)]
    assert entries[0]["step"] == entries[1]["step"] >= 3
    for entry, table in zip(entries, shared.tables, strict=True):
        assert same(entry["square_avg"], table[entry["step"]][1])


@program
def files_are_saved_and_loaded():
    shared, restored = Stepped(), Stepped()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimizer.safetensors"
        shared.step()
        shared.optimizer.save(path)

        def load():
            refused(restored.optimizer.load, path)
            entries = [restored.optimizer.state[index] for index in (0, 1)]
            assert entries[0]["step"] == entries[1]["step"] > 0
            for entry, table in zip(entries, shared.tables, strict=True):
                assert same(entry["square_avg"], table[entry["step"]][1])

        def pause_and_step():
            time.sleep(0.002)  # or hardly a save would find a moment without a step
            shared.step()

        together(pause_and_step, lambda: refused(shared.optimizer.save, path), load)
    shared.check()


@program
def optimizers_are_copied():
    shared = Stepped()

    def copy_it():
        refused(copy.deepcopy, shared.optimizer)

    together(shared.step, shared.step, copy_it)
    shared.check()
