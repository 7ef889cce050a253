"""How much memory a step allocates for itself. Linux only; None elsewhere."""

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

PROCESS = Path("/proc/self")


def bytes_in(field: str) -> int:
    """Return a size from the process's status: VmRSS, its current size, or VmHWM, its peak."""
    for line in (PROCESS / "status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    raise LookupError(field)


def temporary_bytes(step: Callable[[], object]) -> int | None:
    """Return by how much memory grew during a step, and shrank again or not."""
    try:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # what an earlier step gave back must be asked for again
        (PROCESS / "clear_refs").write_text("5")  # sets VmHWM to VmRSS
        before = bytes_in("VmRSS")
        step()
        return max(0, bytes_in("VmHWM") - before)
    except (OSError, LookupError):
        return None


def available() -> int | None:
    """Return how much memory the machine has left."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except OSError:
        return None
    return None
