"""Writing a file so that a crash at any moment leaves the old one or the new one whole."""

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO

BUFFER = 1 << 20  # bytes that are written at a time

REFUSALS = {errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""Errors of file systems that lack an operation, such as some network mounts. They lose no data."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file for writing, and move it to `path` when the block ends without an error.

    The new file has a unique name (`.rmsprop-*.tmp`) in the same folder, so that of two simultaneous saves one file
    remains. It is flushed to the disk before it is renamed, and the folder of `path` after that. Only a process that is
    killed leaves it behind, which does no harm.

    The new file gets the permissions of the old one; if `path` is a symbolic link, its target is replaced. Where the
    file system cannot set permissions or flush, that is skipped; permissions are never wider than before.

    Yields:
        The new file, empty.

    Raises:
        OSError: anything failed; its `filename` is `path`. Unless it was the flush of the folder, `path` is unchanged.
    """
    name = os.fsdecode(path)
    is_resolved = os.path.basename(name) and not os.path.islink(name)
    target = name if is_resolved else os.path.realpath(name)
    folder, old = os.path.split(target)
    new = f".rmsprop-{os.urandom(6).hex()}.tmp"
    with _naming(name):
        mode = _mode_of(target)
        opened = _opened(folder or os.curdir)
    if opened is None:
        new, old = os.path.join(folder, new), target
    try:
        with _naming(name):
            file = _new_file(new, opened, mode, name)
        try:
            with file:
                yield file
                with _naming(name):
                    file.flush()
                    _set_mode(file, mode)
                    _flush_to_disk(file.fileno())
            with _naming(name):
                os.replace(new, old, src_dir_fd=opened, dst_dir_fd=opened)
        except BaseException:
            with suppress(OSError):
                os.unlink(new, dir_fd=opened)
            raise
        if opened is not None:
            with _naming(name):
                _flush_to_disk(opened)
    finally:
        if opened is not None:
            os.close(opened)


class _NamedFile(io.FileIO):
    """A file whose errors name the path that the user gave."""

    path: str

    def write(self, data: Any) -> int:
        with _naming(self.path):
            return super().write(data)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Put a path into errors of the system, in place of a descriptor, a temporary name or nothing."""
    try:
        yield
    except OSError as error:
        error.filename = path
        del error.filename2  # None would be shown as a second path
        raise


def _new_file(new: str, folder: int | None, mode: int | None, path: str) -> BinaryIO:
    """Create a file with at most the permissions `mode`, or with those of any new file."""
    opener = partial(os.open, mode=0o666 if mode is None else mode & 0o777, dir_fd=folder)
    file = _NamedFile(new, "xb", opener=opener)
    file.path = path
    return io.BufferedWriter(file, BUFFER)


def _mode_of(target: str) -> int | None:
    """Return the permissions of the file that is about to be replaced, or None if there is none."""
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Neither a regular file nor a new one", target)
    return stat.S_IMODE(status.st_mode)


def _opened(folder: str) -> int | None:
    """Open a folder, to refer to files in it however long its path is, and to flush it.

    Returns:
        A descriptor, or None where a folder cannot be opened: on Windows, and if it is writable but not readable.
    """
    if os.rename not in os.supports_dir_fd:
        return None
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return None


def _set_mode(file: BinaryIO, mode: int | None) -> None:
    if mode is None or stat.S_IMODE(os.fstat(file.fileno()).st_mode) == mode:
        return
    with _unless_refused():
        os.chmod(file.fileno() if os.chmod in os.supports_fd else file.name, mode)


def _flush_to_disk(descriptor: int) -> None:
    with _unless_refused():
        os.fsync(descriptor)


@contextmanager
def _unless_refused() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
