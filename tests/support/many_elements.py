"""Arrays of more than 2^31 elements in little memory. Linux only."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

MANY = (1 << 31) + (1 << 21)
WINDOW = 1 << 20
WINDOWS = [slice(begin, begin + WINDOW) for begin in (0, MANY // 2, MANY - WINDOW)]
"""Where elements have memory of their own: at the beginning, in the middle, and behind 2^31."""

ITEM = np.dtype(np.float32).itemsize
SHARED_BYTES = 1 << 24
MAP_FIXED = 0x10


@contextmanager
def many_elements(shared_value: float) -> Iterator[np.ndarray]:
    """Make an array of MANY elements of float32, of which those outside of WINDOWS share the same few pages.

    They all have the value that is given, and whoever writes to them has to write just that: then it matters neither
    how often a page is visited nor by which thread. At the end it is checked that they still have it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)

    def mapped(address: int | None, size: int, protection: int, flags: int, file: int = -1) -> int:
        found = libc.mmap(address, size, protection, flags, file, 0)
        if found == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        return found

    private, readable = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE
    file = os.memfd_create("shared pages")
    os.truncate(file, SHARED_BYTES)
    size = MANY * ITEM
    begin = mapped(None, size, 0, private)
    try:
        for at in range(0, size, SHARED_BYTES):
            part = min(SHARED_BYTES, size - at)
            mapped(begin + at, part, readable, mmap.MAP_SHARED | MAP_FIXED, file)
        for window in WINDOWS:
            mapped(begin + window.start * ITEM, WINDOW * ITEM, readable, private | MAP_FIXED)
        array = np.ctypeslib.as_array((ctypes.c_float * MANY).from_address(begin))
        shared = array[WINDOW : WINDOW + SHARED_BYTES // ITEM]  # every shared page once
        shared.fill(shared_value)
        yield array
        assert (shared == shared_value).all()
    finally:
        libc.munmap(begin, size)
        os.close(file)
