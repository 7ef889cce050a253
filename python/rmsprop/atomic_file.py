"""Writing a file so that a crash at any moment leaves the old one or the new one, whole."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[int]:
    """Open a temporary file to write into, and put it in the place of `path` once the block is left without an error.

    The temporary file lies in the same folder under a name that nobody else has, so that two savers at once give the
    file of one of them. It is flushed to the disk before it is renamed, and the folder after that. On an error it is
    removed; only a process that is killed leaves one behind (`.rmsprop-*.tmp`), which does no harm.

    A file that is replaced keeps its permissions, and if `path` is a symbolic link, it is the file it points to.

    Yields:
        The descriptor of the temporary file.

    Raises:
        OSError: anything failed. Unless it was the flush of the folder, `path` is as it was.
    """
    target = os.path.realpath(os.fsdecode(path))
    mode = _mode_of(target)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".rmsprop-{os.urandom(8).hex()}.tmp")
    # Never wider than it will be: whoever opened it by now could go on reading.
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else mode
    )
    try:
        try:
            if mode is not None:
                os.fchmod(descriptor, mode)
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _flush_folder(folder)


def write_all(descriptor: int, data: memoryview) -> None:
    """Write all of `data`, in several pieces if the system takes only a part at a time."""
    while data:
        data = data[os.write(descriptor, data) :]


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
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
