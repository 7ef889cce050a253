"""The lower bound of a step: two bare loops in C++, over arrays of the same shapes, on the same threads.

One moves the memory that a step has to move and computes almost nothing; the other computes one square root and one
division per element. A step takes at least as long as the slower of them. Their steps are repeated inside C++, so that
the call from Python is not counted.
"""

import ctypes
import functools
import math
import shutil
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np

import rmsprop
from peers.arrays import Arrays
from peers.contract import Contender, Options, Peer

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "limits"
TRAFFIC, FULL_TRAFFIC, DIVIDER = range(3)
MUCH_WORK = 1 << 20  # elements from which all threads are always worth it
TRIES = 9


class Slice(ctypes.Structure):
    """One tensor, as in bench/cpp/limits.hpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("param", "grad", "square_avg", "grad_avg", "momentum_buffer")),
        ("size", ctypes.c_int64),
    )


@functools.cache
def library() -> ctypes.CDLL:
    """Build the loops with CMake, unless that was done before, and load them."""
    if shutil.which("cmake") is None:
        raise RuntimeError("cmake is not installed")
    definitions = ["-DCMAKE_BUILD_TYPE=Release", "-DRMSPROP_BUILD_LIMITS=ON"]
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run("cmake", "-S", str(ROOT), "-B", str(BUILD), *generator, *definitions)
    run("cmake", "--build", str(BUILD), "--config", "Release")
    suffixes = {".so", ".dylib", ".dll"}
    paths = [path for path in BUILD.rglob("*rmsprop_limits*") if path.suffix in suffixes]
    if not paths:
        raise RuntimeError(f"the build in {BUILD} left no library")
    loaded = ctypes.CDLL(str(paths[0]))
    loaded.rmsprop_run_limit.restype = ctypes.c_bool
    loaded.rmsprop_run_limit.argtypes = (
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.POINTER(Slice),
        ctypes.c_int64,
        ctypes.c_int,
        ctypes.c_int64,
    )
    return loaded


def run(*command: str) -> None:
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if finished.returncode:
        print(finished.stdout, file=sys.stderr)
        lines = [line for line in finished.stdout.splitlines() if "error" in line.lower()]
        raise RuntimeError(f"{' '.join(command[:2])} failed: {lines[0].strip() if lines else 'see its output'}")


class LimitArrays:
    """The arrays that both loops run over, filled so that their values stay ordinary however often the loops run."""

    def __init__(self, arrays: Arrays, full: bool) -> None:
        self.params = arrays.copies_of_params()
        self.grads = arrays.grads
        count = 3 if full else 1
        self.state = [[np.full(param.size, 2, np.float32) for _ in range(count)] for param in self.params]
        self.elements = sum(param.size for param in self.params)
        pointers = [
            [array.ctypes.data for array in (param, grad, *entry)] + [None] * (3 - count)
            for param, grad, entry in zip(self.params, self.grads, self.state, strict=True)
        ]
        self.slices = (Slice * len(pointers))(
            *(Slice(*entry, param.size) for entry, param in zip(pointers, self.params, strict=True))
        )


_shared: "weakref.WeakValueDictionary[tuple[int, bool], LimitArrays]" = weakref.WeakValueDictionary()


class Loop:
    """One of the loops, on as many threads as make it fastest."""

    def __init__(self, arrays: Arrays, options: Options, divider: bool) -> None:
        full = bool(options.get("centered"))
        self.library = library()
        self.arrays = _shared.get((id(arrays), full)) or LimitArrays(arrays, full)
        _shared[id(arrays), full] = self.arrays
        self.loop = DIVIDER if divider else FULL_TRAFFIC if full else TRAFFIC
        self.instruction_set = rmsprop.instruction_sets().chosen.encode()
        self.threads = rmsprop.get_num_threads()
        if self.threads > 1 and self.arrays.elements < MUCH_WORK:
            self.threads = self.best_threads((1, self.threads))

    def best_threads(self, choices: tuple[int, ...]) -> int:
        """Return with how many threads the loop is fastest, by the least times of tries that take turns."""
        least = dict.fromkeys(choices, math.inf)
        for _ in range(TRIES):
            for self.threads in choices:
                least[self.threads] = min(least[self.threads], self.seconds_per_step())
        return min(choices, key=least.__getitem__)

    def seconds_per_step(self) -> float:
        steps, spent = 1, 0.0
        while spent < 1e-3:
            steps *= 2
            begin = time.perf_counter()
            self.run(steps)
            spent = time.perf_counter() - begin
        return spent / steps

    def run(self, steps: int) -> None:
        slices = self.arrays.slices
        done = self.library.rmsprop_run_limit(self.instruction_set, self.loop, slices, len(slices), self.threads, steps)
        if not done:
            raise RuntimeError(f"there is no such loop for {self.instruction_set.decode()}")

    def params(self) -> list[np.ndarray]:
        return self.arrays.params

    def state_bytes(self) -> int:
        return sum(array.nbytes for entry in self.arrays.state for array in entry)


def traffic(arrays: Arrays, options: Options) -> Contender:
    return Loop(arrays, options, divider=False)


def divider(arrays: Arrays, options: Options) -> Contender:
    return Loop(arrays, options, divider=True)


INSTALL = "a C++ compiler and pip install cmake"
PEERS = (
    Peer("limit: memory traffic", "limit", traffic, install=INSTALL, formula=""),
    Peer("limit: root and quotient", "limit", divider, install=INSTALL, formula=""),
)
