"""Runs programs that may crash or hang, each in a process of its own."""

import json
import os
import subprocess
import sys
import textwrap

# A process that has imported everything forks one for each program: an import takes longer than any of them.
RUN_EACH = """
import faulthandler, json, signal, tempfile, traceback

faulthandler.enable()
for line in sys.stdin:
    name, program = json.loads(line)
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            signal.alarm(120)  # a program that hangs is killed
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            try:
                exec(program, globals())
                gc.collect()
                print("came to its end", flush=True)
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        print(json.dumps([name, os.waitstatus_to_exitcode(status), output.read().decode()]), flush=True)
"""


BEGINNING = """
import gc, os, pickle, sys, threading, time, weakref
import numpy as np
import rmsprop
from rmsprop import _core, functional
from rmsprop._core import Hold, Naming, Rule, Stepper

def attempt(call, *arguments, **more):
    try:
        return call(*arguments, **more)
    except Exception as error:
        print(type(error).__name__, str(error)[:200])
        return str(error)
"""

# What programs begin with that use arrays of NumPy, and engines below the optimizers.
ARRAYS = (
    BEGINNING
    + """
big = lambda: np.ones(1 << 17)
armed = False

class Text(str):
    '''A str that runs `on_compare(self)` when it is compared with another.'''
    __hash__ = str.__hash__
    def __eq__(self, other):
        if armed:
            on_compare(self)
        return str.__eq__(self, other)

def in_child(call):
    '''Run something in a forked child, which has to come to its end.'''
    child = os.fork()
    if child == 0:
        try:
            call()
            os._exit(7)
        except BaseException as error:
            print(repr(error), flush=True)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

def group_of(*params, **options):
    return {**rmsprop.RMSprop([big()], **options).param_groups[0], "params": list(params)}

def interleaved():
    memory = np.ones((1 << 9, 1 << 9))
    a = np.lib.stride_tricks.as_strided(memory, (1 << 8, 3), (8 * 7, 8 * 3))
    return a, np.lib.stride_tricks.as_strided(memory[0, 1:], (1 << 8, 3), (8 * 7, 8 * 3))
"""
)

# What programs begin with that use tensors of PyTorch.
TENSORS = (
    BEGINNING
    + """
import torch
import rmsprop.torch
from rmsprop.torch import Adagrad, RMSprop

n = 1 << 17

def big(*shape, grad=True):
    tensor = torch.ones(shape or n, requires_grad=True)
    if grad:
        tensor.grad = torch.ones_like(tensor).detach()
    return tensor
"""
)


def outcomes_of(preamble, programs):
    """Run programs, by name, after a preamble that is run once, and return by name how each ended.

    That is its exit code, negative after a crash, and its output. Memory that is freed goes back to the operating
    system at once, so that a stale pointer is a crash and not luck.
    """
    result = subprocess.run(
        [sys.executable, "-c", preamble + RUN_EACH],
        input="".join(json.dumps((name, textwrap.dedent(code))) + "\n" for name, code in programs.items()),
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONMALLOC": "debug"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return {name: (code, output) for name, code, output in map(json.loads, result.stdout.splitlines())}


def assert_survived(outcome):
    """Assert that a program came to its end."""
    exit_code, output = outcome
    assert exit_code == 0, f"exit code {exit_code}: {output}"
    assert output.endswith("came to its end\n"), output
