"""Ctrl-C in the middle of a step: the step finishes whole, or it never began, and then comes the KeyboardInterrupt.

A process takes steps, each by a new optimizer, and is sent a SIGINT at another moment each time. Each step is one that
has most to lose: the first that needs a momentum buffer.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent to one process, as a terminal would")

PROGRAM = """
    import signal, sys, time
    import numpy as np

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it

    {setup}

    def digest(skipped_steps, arrays):
        # Sums of integers: quick, and another one if any bit is.
        return skipped_steps, *(int(array.reshape(-1).view("u8").sum()) for array in arrays)

    before = digest(0, arrays_of(new()[0]))
    optimizer, take_step = new()
    take_step()
    after = digest(optimizer.skipped_steps, arrays_of(optimizer))
    take_step = new()[1]
    start = time.perf_counter()
    take_step()
    print(time.perf_counter() - start, flush=True)
    for _ in range({trials}):
        optimizer, take_step = new()
        returned = False
        try:
            print("ready", flush=True)
            take_step()
            returned = True
            for _ in range(6000):  # a signal just before it sleeps is only seen after it
                time.sleep(0.01)
        except KeyboardInterrupt:
            found = digest(optimizer.skipped_steps, arrays_of(optimizer))
            print({{before: "before", after: "after"}}.get(found, "torn"), returned, flush=True)
"""

NUMPY = """
    import rmsprop
    n = 4_000_000
    param, grad = np.empty(n), np.full(n, 0.5)
    grad[-1] = {last}

    def new():
        param.fill(1.0)
        optimizer = rmsprop.RMSprop([param], lr=0.1, nonfinite="skip", num_threads=1)
        optimizer.param_groups[0]["momentum"] = 0.9
        return optimizer, lambda: optimizer.step([grad])

    def arrays_of(optimizer):
        entry = optimizer.state[0]
        return param, entry["square_avg"], entry.get("momentum_buffer", np.zeros(1)), np.array([entry["step"]])
"""
TORCH = """
    import torch, rmsprop.torch
    n = 4_000_000
    param = torch.empty(n, dtype=torch.float64, requires_grad=True)
    param.grad = torch.full((n,), 0.5, dtype=torch.float64)
    param.grad[-1] = {last}

    def new():
        param.data.fill_(1.0)
        optimizer = rmsprop.torch.RMSprop([param], lr=0.1, momentum=0.9, nonfinite="skip", num_threads=1)
        version = param._version
        optimizer.told = lambda: param._version > version
        return optimizer, optimizer.step

    def arrays_of(optimizer):
        entry = optimizer.state[param]
        state = [entry[name].numpy() for name in ("square_avg", "momentum_buffer", "step") if name in entry]
        return [param.detach().numpy(), *state, np.array([optimizer.told()], "u8")]
"""
HAS_TORCH = importlib.util.find_spec("torch") is not None
TRIALS = 100  # at most
WANTED = 5
LIMIT = 240
"""Seconds after which the process is killed: it hangs."""


@pytest.mark.parametrize("last", [0.5, "float('inf')"], ids=["taken", "skipped"])
@pytest.mark.parametrize(
    "setup",
    [
        pytest.param(NUMPY, id="numpy"),
        pytest.param(TORCH, id="torch", marks=pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")),
    ],
)
def test_ctrl_c_in_the_middle_of_a_step_finds_it_whole_or_not_begun(setup, last):
    program = textwrap.dedent(PROGRAM).format(setup=textwrap.dedent(setup.format(last=last)), trials=TRIALS)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(LIMIT, process.kill)
        watchdog.start()
        try:
            outcomes = interrupted(process)
        finally:
            watchdog.cancel()
            process.kill()
    assert outcomes
    assert {state for state, _ in outcomes} <= {"before", "after"}, outcomes
    assert ("after", "False") in outcomes, f"no interrupt came in the middle of a step: {outcomes}"


def interrupted(process):
    """Interrupt steps of a process at other moments, and return what it says of each: its state, and if it was over."""
    took = float(answer_of(process))
    delay, change, was_late = 0.0, took / 10, False
    outcomes = []
    while outcomes.count(("after", "False")) < WANTED and process.stdout.readline() == "ready\n":
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        state, was_over = answer_of(process).split()
        outcomes.append((state, was_over))
        # Towards the end of the step, by less each time that it is passed: the engine's part may be short.
        is_late = was_over == "True"
        change = max(took / 200, change / 2) if is_late != was_late else change
        delay, was_late = max(0.0, delay + (-change if is_late else change)), is_late
    return outcomes


def answer_of(process):
    line = process.stdout.readline()
    assert line, f"the process ended, by itself or after {LIMIT} seconds, with exit code {process.wait()}"
    return line
