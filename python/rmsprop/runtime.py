"""What a step runs on: threads and instruction sets."""

import platform
from typing import NamedTuple

import numpy as np

from rmsprop import _core


class InstructionSets(NamedTuple):
    """The instruction sets of this build, as `instruction_sets` returns them."""

    available: tuple[str, ...]
    """Those that this CPU and its operating system support, best first."""
    chosen: str
    """The one that steps use."""
    unavailable: tuple[str, ...]
    """Those that this build has kernels for, but this machine cannot run."""


def set_num_threads(num_threads: int) -> None:
    """Set the maximum number of threads of a step, in this process.

    An optimizer that was made with `num_threads` uses that number instead. A step uses fewer if it is small, or where
    other programs use the CPUs. Its result does not depend on it.

    Args:
        num_threads: from 1 to 1024.

    Raises:
        TypeError: if `num_threads` is not an int.
        ValueError: if it is out of range.

    Examples:
        >>> import rmsprop
        >>> rmsprop.set_num_threads(1)
        >>> rmsprop.get_num_threads()
        1
    """
    _core.set_num_threads(num_threads)


def get_num_threads() -> int:
    """Return the maximum number of threads of a step.

    This is the number given to `set_num_threads`. Without one it is what OpenMP would use in the calling thread (one
    per CPU, `OMP_NUM_THREADS`, or what `threadpoolctl` or `torch.set_num_threads` has set), but never more than the
    affinity mask and the cgroup quota of the process allow. In a child made by `os.fork` it is 1, because the threads
    of an OpenMP pool do not survive a fork.
    """
    return _core.get_num_threads()


def instruction_sets() -> InstructionSets:
    """Return the instruction sets that the kernels were compiled for.

    The best one is chosen when the package is imported. The environment variable `RMSPROP_ISA` chooses another; an
    unknown or unsupported name makes the import fail. Every set gives the same bits; only the speed
    differs.

    Examples:
        >>> import rmsprop
        >>> "baseline" in rmsprop.instruction_sets().available
        True
    """
    sets = _core.instruction_sets()
    return InstructionSets(
        available=tuple(name for name, supported, _ in sets if supported),
        chosen=next(name for name, _, chosen in sets if chosen),
        unavailable=tuple(name for name, supported, _ in sets if not supported),
    )


def show_config() -> None:
    """Print the versions, instruction sets and threads of this installation: what a bug report should contain."""
    sets = instruction_sets()
    version = _core.openmp_version()
    openmp = f"specification of {version // 100}-{version % 100:02d}" if version else "none: built for one thread"
    rows = {
        "rmsprop": _core.__version__,
        "NumPy": np.__version__,
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "instruction set": f"{sets.chosen} (chosen)",
        "  available": ", ".join(sets.available),
        "  not on this machine": ", ".join(sets.unavailable) or "none",
        "threads": f"{get_num_threads()} at most (CPUs available: {_core.available_cpus()}), {_core.thread_use()}",
        "OpenMP": openmp,
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
