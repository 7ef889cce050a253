"""Saving, loading and steps of one optimizer exclude each other: one of two raises, and nothing is lost or mixed."""

import os
import threading

import numpy as np
import pytest

import rmsprop
from runs import Run, Unchanged

BUSY = "this optimizer is in the middle of"


class Paused:
    """A learning rate that, in one thread, waits until it may go on."""

    def __init__(self):
        self.reached, self.may_go_on, self.thread = threading.Event(), threading.Event(), None

    def __call__(self, step):
        if threading.current_thread() is self.thread:
            self.reached.set()
            assert self.may_go_on.wait(60)
        return 0.1

    def start(self, act, *arguments):
        """Act in another thread, up to where this learning rate is asked for, and return a function that ends it."""
        errors = []

        def run():
            try:
                act(*arguments)
            except Exception as error:
                errors.append(error)

        self.thread = threading.Thread(target=run)
        self.thread.start()
        assert self.reached.wait(60)

        def finish():
            self.may_go_on.set()
            self.thread.join(60)
            return errors

        return finish


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def everything_else(run, path):
    """Return all calls that need the optimizer for themselves."""
    saved = run.optimizer.state_dict()
    return {
        "step": lambda: run.step(),
        "load_state_dict": lambda: run.optimizer.load_state_dict(saved),
        "load": lambda: run.optimizer.load(path),
        "save": lambda: run.optimizer.save(path.with_name("other")),
    }


@pytest.mark.parametrize("second", ["step", "load_state_dict", "load", "save"])
@pytest.mark.parametrize("first", ["step", "load_state_dict", "load", "save"])
def test_of_two_threads_the_second_is_refused_and_the_first_is_not_disturbed(first, second, path):
    lr = Paused()
    run = Run(lr=lr).step(2)
    run.optimizer.save(path)
    acts = everything_else(run, path)
    finish = lr.start(acts[first])
    with Unchanged(run.optimizer), pytest.raises(RuntimeError, match=f"{second}: {BUSY} "):
        acts[second]()
    assert finish() == []
    assert [entry["step"] for entry in run.optimizer.state.values()] == [3 if first == "step" else 2] * 4
    assert sorted(os.listdir(path.parent)) == (["file", "other"] if first == "save" else ["file"])
    for act in acts.values():
        act()


@pytest.mark.parametrize("second", ["step", "load_state_dict", "load", "save"])
@pytest.mark.parametrize("first", ["load", "save"])
def test_what_progress_does_in_the_middle_of_a_save_or_a_load_is_refused_and_the_old_file_stays(first, second, path):
    run = Run().step(2)
    run.optimizer.save(path)
    before = path.read_bytes()
    run.step()
    acts = everything_else(run, path)
    with Unchanged(run.optimizer), pytest.raises(RuntimeError, match=f"{second}: {BUSY} {first}"):
        getattr(run.optimizer, first)(path, progress=lambda done, total: acts[second]())
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["file"]
    run.step()


def test_a_step_of_another_thread_during_a_save_is_refused_and_the_save_succeeds(path):
    run = Run().step(2)
    errors = []

    def step_elsewhere(done, total):
        def step():
            try:
                run.step()
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=step)
        thread.start()
        thread.join(60)

    run.optimizer.save(path, progress=step_elsewhere)
    assert len(errors) == 1
    assert f"step: {BUSY} save" in errors[0]
    run.optimizer.load(path)
    assert [entry["step"] for entry in run.optimizer.state.values()] == [2] * 4


def test_no_step_is_lost_while_another_thread_loads():
    """Every step that was taken is counted, unless what was loaded came after it."""
    optimizer = rmsprop.Adagrad([np.ones(3) for _ in range(50)])
    saved = optimizer.state_dict()
    grads = [np.ones(3)] * 50
    go_on = threading.Event()
    refused = {"load": 0, "step": 0}

    def load_again_and_again():
        while not go_on.is_set():
            try:
                optimizer.load_state_dict(saved)
            except RuntimeError:
                refused["load"] += 1

    for entry in saved["state"].values():
        entry["sum"] = entry["sum"].copy()
    loader = threading.Thread(target=load_again_and_again)
    loader.start()
    try:
        for _ in range(300):
            try:
                optimizer.step(grads)
            except RuntimeError:
                refused["step"] += 1
            counts = {entry["step"] for entry in optimizer.state.values()}
            assert len(counts) <= 2  # those of before and after a load between two looks
    finally:
        go_on.set()
        loader.join(60)
    entries = list(optimizer.state.values())
    assert len({entry["step"] for entry in entries}) == 1
    (count,) = {entry["step"] for entry in entries}
    assert {float(number) for entry in entries for number in entry["sum"]} == {float(count)}


@pytest.mark.parametrize("what", ["save", "load", "load_state_dict"])
def test_an_error_leaves_the_optimizer_free(what, path):
    run = Run().step(1)
    acts = {
        "save": lambda: run.optimizer.save(path / "missing"),
        "load": lambda: run.optimizer.load(path),
        "load_state_dict": lambda: run.optimizer.load_state_dict({}),
    }
    with pytest.raises((OSError, TypeError)):
        acts[what]()
    run.step(1).optimizer.save(path)
    run.optimizer.load(path)
