"""A new file replaces the old one wherever it can lie: on mounts that lack operations, and at the longest paths."""

import errno
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

import rmsprop
from rmsprop._saving import atomic_file


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def replace(path, content=b"new"):
    with atomic_file.replacing(path) as file:
        file.write(content)


def refusing(monkeypatch, name, number):
    """Let a function of the system fail every time, and return the list of its calls."""
    calls = []

    def refuse(*args, **kwargs):
        calls.append(args)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, refuse)
    return calls


@pytest.mark.parametrize("number", sorted(atomic_file.REFUSALS), ids=errno.errorcode.get)
@pytest.mark.parametrize(("name", "count"), [("chmod", 1), ("fsync", 2)])
def test_a_file_system_that_cannot_set_permissions_or_flush_gets_its_file(name, count, number, path, monkeypatch):
    path.chmod(0o777)  # so that a new file needs others
    with monkeypatch.context() as patched:
        calls = refusing(patched, name, number)
        replace(path)
    assert len(calls) == count
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["chmod", "fsync", "replace"])
def test_any_other_error_is_raised_with_the_path_and_leaves_the_old_file(name, number, path, monkeypatch):
    path.chmod(0o777)
    refusing(monkeypatch, name, number)
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        replace(path)
    assert (raised.value.errno, raised.value.filename, raised.value.filename2) == (number, os.fspath(path), None)
    assert str(raised.value) == f"[Errno {number}] {os.strerror(number)}: {os.fspath(path)!r}"
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o777, 0o400])
def test_permissions_that_cannot_be_set_are_never_wider_than_those_of_the_old_file(mode, path, monkeypatch):
    path.chmod(mode)
    refusing(monkeypatch, "chmod", errno.EPERM)
    with atomic_file.replacing(path) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) & ~mode == 0
    assert stat.S_IMODE(path.stat().st_mode) & ~mode == 0


def test_a_folder_that_may_be_written_to_but_not_read_gets_its_file(path, monkeypatch):
    opened = os.open

    def refuse_folders(name, flags, *args, **kwargs):
        if flags & os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return opened(name, flags, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse_folders)
        replace(path)
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


def test_an_error_of_writing_names_the_path(tmp_path):
    program = f"""
import resource, signal, numpy as np, rmsprop
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    rmsprop.RMSprop(np.ones(1_000_000)).save({os.fspath(tmp_path / "file")!r})
except OSError as error:
    print(error.filename)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert finished.stdout.strip() == os.fspath(tmp_path / "file")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("length", [1, 20, 255])
def test_a_path_may_be_as_long_as_the_system_takes(length, tmp_path):
    longest = os.pathconf(tmp_path, "PC_PATH_MAX") - 1  # one is the zero at its end
    folder = os.fspath(tmp_path)
    while (left := longest - length - 1 - len(folder)) > 1:
        folder = os.path.join(folder, "d" * min(200, left - 1 if left < 203 else 200))
        os.mkdir(folder)
    path = os.path.join(folder, "n" * length)
    assert longest - 1 <= len(path) <= longest
    for value in (1.0, 2.0):
        optimizer = rmsprop.Adagrad(np.ones(1), initial_accumulator_value=value)
        optimizer.save(path)
        loaded = rmsprop.Adagrad(np.ones(1))
        loaded.load(path)
        assert loaded.state[0]["sum"] == value
    assert os.listdir(folder) == ["n" * length]


def test_a_relative_path_works_in_a_folder_whose_own_path_is_too_long(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(25):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    replace("file")
    replace("file", b"newer")
    with open("file", "rb") as file:
        assert file.read() == b"newer"
    assert os.listdir() == ["file"]


def test_an_exception_in_the_block_stays_as_it_is(path):
    error = OSError(errno.EPIPE, "of somebody else")
    with pytest.raises(OSError, match="of somebody else") as raised, atomic_file.replacing(path):
        raise error
    assert raised.value is error
    assert error.filename is None
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["file"]
