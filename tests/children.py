"""Children made by `os.fork`, for the tests of processes."""

import os
import pickle
import signal
import traceback
import warnings


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
