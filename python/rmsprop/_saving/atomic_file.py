"""Writing a file so that a crash at any moment leaves the old one or the new one, whole."""

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give a path for a new file, and put the file into the place of `path` once the block is left without an error.

    The new file lies in a temporary folder beside `path` under a name that nobody else has, so that two savers at once
    give the file of one of them, and so that writing it may well mean replacing it. It is flushed to the disk
    before it is renamed, and the folder of `path` after that. The temporary folder is removed; only a process that is
    killed leaves it behind (`.rmsprop-*.tmp`), which does no harm.

    A file that is replaced keeps its permissions, and if `path` is a symbolic link, it is the file it points to.

    Yields:
        The path of a new and empty file.

    Raises:
        OSError: anything failed. Unless it was the flush of the folder, `path` is as it was.
    """
    target = os.path.realpath(os.fsdecode(path))
    old_mode = _mode_of(target)
    folder = os.path.dirname(target)
    with TemporaryDirectory(prefix=".rmsprop-", suffix=".tmp", dir=folder) as temporary:
        new = os.path.join(temporary, "new")
        with open(new, "xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode) if old_mode is None else old_mode
        yield new
        with open(new, "r+b") as file:  # Windows flushes only what is open for writing
            os.chmod(file.fileno() if os.chmod in os.supports_fd else new, mode)
            os.fsync(file.fileno())
        os.replace(new, target)
    _flush_folder(folder)


def _mode_of(target: str) -> int | None:
    """Return the permissions of the file that is about to be replaced, or None if there is none."""
    try:
        status: Any = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Neither a regular file nor a new one", target)
    return stat.S_IMODE(status.st_mode)


def _flush_folder(folder: str) -> None:
    """Flush the entries of a folder to the disk, a renamed file among them."""
    if sys.platform == "win32":
        return  # a folder is no file there; what it holds is in the journal of the file system
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
