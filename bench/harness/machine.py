"""What the figures were measured on."""

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

import rmsprop

CPU = Path("/sys/devices/system/cpu/cpu0/cache")
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "MKL_NUM_THREADS",
    "XLA_FLAGS",
    "RMSPROP_ISA",
    "RMSPROP_THREADS",
)


def describe() -> dict[str, Any]:
    """Return the machine, the system and how rmsprop runs on it."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "caches": caches(),
        "memory_bytes": memory_bytes(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "rmsprop": rmsprop.__version__,
        "instruction_set": rmsprop.instruction_sets().chosen,
        "threads": rmsprop.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "environment": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    name = facts.get("model name", platform.machine())
    numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def caches() -> dict[str, int]:
    """Return the size of each cache that one core sees, in bytes; empty if the system does not report them."""
    found = {}
    for folder in sorted(CPU.glob("index*")):
        kind = (folder / "type").read_text().strip()
        if kind != "Instruction":
            size = (folder / "size").read_text().strip()
            found[f"L{(folder / 'level').read_text().strip()}"] = int(size.rstrip("K")) << 10
    return found


def memory_bytes() -> int | None:
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def in_words(machine: dict[str, Any]) -> str:
    """Return the machine in one line."""
    return f"{machine['threads']} threads on {machine['cores']} cores of {machine['cpu']}, {machine['instruction_set']}"
