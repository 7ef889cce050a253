"""Processes that tests start: forked children, and Pythons of their own."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import traceback
import warnings

import pytest

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this operating system has no fork")

# What programs begin with that compare runs in several processes or threads; a step is large enough for threads.
RUNS = """
import concurrent.futures, multiprocessing, os, sys, threading, warnings
import numpy as np
import numpy.random  # now: a child that is forked while another thread imports a module could never import it
import rmsprop

SIZE, STEPS = 120_000, 3

# Python warns of each fork beside other threads. That such a child steps is what is tested.
warnings.filterwarnings("ignore", category=DeprecationWarning)
"""


def run_python(code, *arguments, timeout=60, before=(), **environment):
    """Run code in a Python of its own, with a command before it if wanted, and return how it ended."""
    return subprocess.run(
        [*before, sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def output_of(code, *arguments, **options):
    """Run code in a Python of its own, and return what it prints; an error there is one here."""
    result = run_python(code, *arguments, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def result_in_child(call, seconds=60):
    """Call a function in a forked child, and return what it returns. A child that hangs is killed after some time."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # From 3.12 on Python warns of every fork beside other threads. That such a child steps is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        answer_and_exit(call, writing, seconds)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == 0, f"the child ended with {signal.Signals(-code).name if code < 0 else code}"
    succeeded, result = pickle.loads(answer)
    assert succeeded, f"in the child: {result}"
    return result


def answer_and_exit(call, writing, seconds):
    """Write what a function returns, or its error, and leave without anything that a process does at its end."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        try:
            answer = pickle.dumps((True, call()))
        except BaseException:
            answer = pickle.dumps((False, traceback.format_exc()))
        with open(writing, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    finally:
        os._exit(1)
