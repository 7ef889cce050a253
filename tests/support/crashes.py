"""Saves that are killed, or that the system refuses something, in children of a process that has no threads.

`ci/crash-safety` runs all of it; test_crash_safety.py runs a part that takes seconds.
"""

import contextlib
import ctypes
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import time

import numpy as np

import rmsprop

SYSTEM_CALLS = (
    *("openat", "mkdir", "mkdirat"),
    *("read", "write", "pread64", "pwrite64", "lseek", "ftruncate", "fallocate"),
    *("fstat", "newfstatat", "statx", "fchmod", "chmod", "fcntl", "ioctl", "readlink", "getdents64"),
    *("fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "close"),
)
"""All that a save could ask of files."""

MUST_BE_RAISED = {"mkdir", "write", "ftruncate", "fchmod", "fsync", "rename", "renameat"}
"""What must not fail unnoticed. Elsewhere a failure may be harmless: of removing, or of asking for a size."""

OPTIMIZERS = {
    "contiguous": lambda: rmsprop.RMSprop({"w": np.ones(3, np.float32), "b": np.ones(1)}),
    "another layout": lambda: rmsprop.RMSprop([np.ones((40, 30)).T, np.ones(7, np.complex64)], momentum=0.9),
    "several pieces": lambda: rmsprop.Adagrad([np.ones((600, 1000)), np.ones((1000, 600)).T]),
}


class NotPermittedError(Exception):
    """This machine does not let a process trace its children."""


def saved_as(optimizer, value, path):
    """Save an optimizer whose state has this value all over."""
    for entry in optimizer.state.values():
        for name, array in entry.items():
            if name != "step":
                array[...] = value
    optimizer.save(path)


def value_in(optimizer, path):
    """Load a file, and return the value that all of the state has."""
    optimizer.load(path)
    arrays = [array for entry in optimizer.state.values() for name, array in entry.items() if name != "step"]
    (value,) = {complex(number) for array in arrays for number in np.unique(array)}
    return value.real


def check_saving_goes_on(optimizer, path):
    """Check that what a killed save left behind does not hinder the next."""
    saved_as(optimizer, 3.0, path)
    assert value_in(optimizer, path) == 3.0
    for name in os.listdir(os.path.dirname(path)):
        if name != os.path.basename(path):
            assert re.fullmatch(r"\.rmsprop-\w+\.tmp", name), name
            os.unlink(os.path.join(os.path.dirname(path), name))


# ---- Killed at system calls ------------------------------------------------------------------------------------------

PTRACE_TRACEME, PTRACE_SYSCALL = 0, 24


def ptrace(request, pid):
    trace = ctypes.CDLL(None, use_errno=True).ptrace
    trace.restype = ctypes.c_long
    trace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if trace(request, pid, None, None) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def kill_saves_at_every_system_call(optimizer, path):
    """Kill a save before and after each of its system calls, and return how often that was."""
    for stops in range(1, 10_000):
        saved_as(optimizer, 1.0, path)
        os.chmod(path, 0o666)  # which a new file does not have, so that it has to be set
        was_killed = is_killed_at(stops, lambda: saved_as(optimizer, 2.0, path))
        assert value_in(optimizer, path) in ((1.0, 2.0) if was_killed else (2.0,))
        check_saving_goes_on(optimizer, path)
        if not was_killed:
            break
    assert stops > 20, "a save makes more than 10 calls: these were not stopped at"
    return stops - 1


def is_killed_at(stops, save):
    """Save in a child that is killed when it stops for the nth time, and tell whether it came that far."""
    pid = os.fork()
    if pid == 0:
        in_child(lambda: (ptrace(PTRACE_TRACEME, 0), os.kill(os.getpid(), signal.SIGSTOP), save()))
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        raise NotPermittedError("this machine does not let a process trace its children")
    for _ in range(stops):
        ptrace(PTRACE_SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            assert status == 0
            return False
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def in_child(act):
    """Act, and leave a child without anything that a process does at its end."""
    try:
        act()
    except BaseException:
        os._exit(1)
    os._exit(0)


# ---- Killed at random moments ----------------------------------------------------------------------------------------


def kill_saves_at_random_moments(optimizer, path, times):
    """Kill children that save one value after the other, and check that the last or the next one is there."""
    chance = random.Random(0)
    saved_as(optimizer, 0.0, path)
    for _ in range(times):
        before = int(value_in(optimizer, path))
        saves = saves_before_killed(optimizer, before, path, chance.uniform(0.0, 0.02))
        assert value_in(optimizer, path) in (before + saves, before + saves + 1)
    check_saving_goes_on(optimizer, path)
    return times


def saves_before_killed(optimizer, value, path, seconds):
    """Kill a child some time after its first save, and return how many it has told of."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        in_child(lambda: save_for_ever(optimizer, value, path, writing))
    os.close(writing)
    os.read(reading, 1)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with open(reading, "rb") as told:
        return 1 + len(told.read())


def save_for_ever(optimizer, value, path, descriptor):
    """Save numbers that count up, and tell after each."""
    while True:
        value += 1
        saved_as(optimizer, value, path)
        os.write(descriptor, b".")


# ---- Refused ---------------------------------------------------------------------------------------------------------


def fail_saves_at_every_system_call(optimizer, path, names=SYSTEM_CALLS, errors=("ENOSPC", "EIO")):
    """Let each system call of a save fail, one a time, and return how often that was.

    If the save raises, the old file is whole, or the new one if it was the last flush that failed. If it does not, the
    new one is.
    """
    if shutil.which("strace") is None:
        raise NotPermittedError("strace, which injects the errors, is not installed")
    failures = 0
    for name in names:
        for error in errors:
            for nth in range(1, 1000):
                saved_as(optimizer, 1.0, path)
                os.chmod(path, 0o666)
                raised, was_refused = error_of(
                    lambda: saved_as(optimizer, 2.0, path), f"{name}:error={error}:when={nth}"
                )
                found = value_in(optimizer, path)
                if not was_refused:
                    assert (raised, found) == (0, 2.0)
                    break
                failures += 1
                if raised == 0:
                    assert found == 2.0
                    assert name not in MUST_BE_RAISED
                elif name in MUST_BE_RAISED:
                    assert raised == getattr(errno, error)
                    assert found == 1.0 or name == "fsync"
                else:
                    assert found in (1.0, 2.0)
                check_saving_goes_on(optimizer, path)
    return failures


def error_of(act, injection):
    """Act in a child while strace injects an error, and return its error number, 0 for none, and whether strace did."""
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(error_number_of(act))
    os.waitpid(pid, os.WUNTRACED)
    called = injection.split(":")[0]
    command = [
        "strace",
        "-qq",
        "-e",
        f"trace={called}",
        "-e",
        "signal=none",
        "-e",
        f"inject={injection}",
        "-p",
        str(pid),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        while tracer_of(pid) == 0:
            if strace.poll() is not None:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                if "invalid system call" in (log := strace.stderr.read()):
                    return act() or 0, False
                raise NotPermittedError(log.strip())
            time.sleep(0.001)
        os.kill(pid, signal.SIGCONT)
        log = strace.stderr.read()
    _, status = os.waitpid(pid, 0)
    assert os.WIFEXITED(status), f"ended by signal {status} at {injection}"
    return os.WEXITSTATUS(status), "(INJECTED)" in log


def tracer_of(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"TracerPid:\s+(\d+)", status.read())[1])


def error_number_of(act):
    """Return the number of the error of the system that an action ends with, 0 for none, 255 for any other error."""
    try:
        act()
    except OSError as error:
        return error.errno or 254  # only a few errors of other libraries lack their number
    except BaseException:
        return 255
    return 0


def fill_the_disk(optimizer, folder):
    """Save onto a small file system of its own until it is full, and return how many saves failed."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "rmsprop", folder]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        raise NotPermittedError(f"cannot mount a file system here: {mounted.stderr.strip()}")
    path = os.path.join(folder, "optimizer")
    try:
        failures = 0
        for taken in range(0, 64, 4):
            with contextlib.suppress(OSError), open(os.path.join(folder, "ballast"), "wb") as ballast:
                ballast.write(bytes(taken << 10))
            if taken == 0:
                saved_as(optimizer, 1.0, path)
            raised = error_number_of(lambda: saved_as(optimizer, 2.0, path))
            assert raised in (0, errno.ENOSPC)
            assert sorted(os.listdir(folder)) == ["ballast", "optimizer"]
            assert value_in(optimizer, path) == (1.0 if raised else 2.0)
            failures += raised != 0
            if not raised:
                saved_as(optimizer, 1.0, path)
    finally:
        subprocess.run(["umount", folder], check=True)
    assert 0 < failures < 16
    return failures
