"""Whatever ends or hinders a save, the old or the new file is whole. The quick part; `ci/crash-safety` runs it all."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import crashes
import rmsprop

FAILING = ["mkdir", "openat", "write", "ftruncate", "fchmod", "fsync", "rename", "renameat", "close", "rmdir"]


def in_a_fresh_process(call):
    """Evaluate a call of `crashes` in a process without threads, which can fork, and give up after two minutes."""
    program = f"""
from crashes import *
try:
    print({call})
except NotPermittedError as error:
    print("not permitted:", error)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    finished = subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    if finished.stdout.startswith("not permitted:"):
        pytest.skip(finished.stdout.strip())
    return int(finished.stdout)


@pytest.fixture
def path(tmp_path):
    return os.fspath(tmp_path / "optimizer.safetensors")


def test_a_save_killed_at_any_system_call_leaves_the_old_or_the_new_file_whole(path):
    assert in_a_fresh_process(f"kill_saves_at_every_system_call(OPTIMIZERS['another layout'](), {path!r})") > 20


def test_a_save_killed_at_any_moment_leaves_the_old_or_the_new_file_whole(path):
    assert in_a_fresh_process(f"kill_saves_at_random_moments(OPTIMIZERS['another layout'](), {path!r}, 25)") == 25


def test_an_error_of_any_system_call_is_raised_and_leaves_the_old_or_the_new_file_whole(path):
    call = f"fail_saves_at_every_system_call(OPTIMIZERS['another layout'](), {path!r}, {FAILING}, ['ENOSPC'])"
    assert in_a_fresh_process(call) >= 9


def test_a_full_disk_is_raised_and_leaves_the_old_file_whole(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    assert in_a_fresh_process(f"fill_the_disk(OPTIMIZERS['another layout'](), {os.fspath(tmp_path)!r})") > 0


SHORT_WRITES = """
#include <sys/syscall.h>
#include <unistd.h>
ssize_t write(int file, const void *bytes, size_t count) {
  return syscall(SYS_write, file, bytes, count > 1000 ? 999 : count);
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler, to build what makes writes short")
def test_short_writes_are_continued(tmp_path):
    (tmp_path / "short.c").write_text(SHORT_WRITES)
    library, path = tmp_path / "short.so", tmp_path / "optimizer"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "short.c"], check=True, timeout=60)
    program = f"""
import crashes, os
assert os.write(os.memfd_create("test"), bytes(2000)) == 999
crashes.saved_as(crashes.OPTIMIZERS["another layout"](), 2.0, {os.fspath(path)!r})
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LD_PRELOAD": os.fspath(library)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
    assert crashes.value_in(crashes.OPTIMIZERS["another layout"](), path) == 2.0
    assert path.stat().st_size > 10_000


def test_what_a_killed_save_left_behind_is_not_in_the_way(tmp_path):
    leftover = tmp_path / ".rmsprop-abcdefgh.tmp"
    leftover.mkdir()
    (leftover / "new").write_bytes(b"half")
    optimizer = rmsprop.RMSprop(np.ones(3))
    optimizer.save(tmp_path / "file")
    optimizer.load(tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == [leftover.name, "file"]
    assert (leftover / "new").read_bytes() == b"half"
